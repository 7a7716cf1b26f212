// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One agent at a time: in a network namespace, whose links and local routes it
//! owns, and on a directory of pins.
//!
//! Both are flock(2) locks, which end with their process however it ends. An agent
//! that drains gives them up: another one may start while it finishes what it
//! relays. A third lock then keeps `sluice detach` away.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::datapath::{DatapathConfig, DatapathError};

/// A lock, held for as long as the value lives.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child being forked holds a copy until it
        // runs its program.
        let _ = self.0.unlock();
    }
}

/// Whether no other agent is at work here now: to be asked before anything
/// else is taken that two agents would fight for.
///
/// # Errors
/// [`DatapathError::InUse`] when one is.
pub fn check(config: &DatapathConfig) -> Result<(), DatapathError> {
    namespace()?;
    pins(&config.bpffs)?;
    Ok(())
}

/// Keeps other agents out of the thread's network namespace.
///
/// # Errors
/// [`DatapathError::InUse`] when another agent serves it.
pub fn namespace() -> Result<Lock, DatapathError> {
    let (file, _) = network_namespace()?;
    lock(file, "this network namespace".to_owned())
}

/// Keeps other agents from the pins in `directory`; none when nothing was ever
/// pinned there.
///
/// # Errors
/// [`DatapathError::InUse`] when another agent uses them.
pub fn pins(directory: &Path) -> Result<Option<Lock>, DatapathError> {
    match File::open(directory) {
        Ok(file) => lock(file, directory.display().to_string()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DatapathError::file("open", directory)(error)),
    }
}

fn lock(file: File, what: String) -> Result<Lock, DatapathError> {
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(fs::TryLockError::WouldBlock) => {
            let holder = holder(&file);
            Err(DatapathError::InUse { what, holder })
        }
        Err(fs::TryLockError::Error(error)) => Err(DatapathError::file("lock", what)(error)),
    }
}

/// Keeps what is pinned from being removed, while another agent may use it.
/// `links` is the directory of a layout's links.
///
/// # Errors
/// When it cannot be locked.
pub fn stay(links: &Path) -> Result<Lock, DatapathError> {
    let file = File::open(links).map_err(DatapathError::file("open", links))?;
    match file.try_lock_shared() {
        Ok(()) => Ok(Lock(file)),
        Err(_) => Err(in_use(&file, links)),
    }
}

/// Whether nobody wants what is pinned to stay.
///
/// # Errors
/// [`DatapathError::InUse`] while an agent finishes what it relays.
pub fn removable(links: &Path) -> Result<(), DatapathError> {
    match File::open(links) {
        Ok(file) => lock(file, links.display().to_string()).map(drop),
        Err(_) => Ok(()),
    }
}

fn in_use(file: &File, what: &Path) -> DatapathError {
    DatapathError::InUse {
        what: what.display().to_string(),
        holder: holder(file),
    }
}

/// The process of the agent that uses the pins in `directory`; none when none
/// does, or it is not seen from here.
pub fn agent(directory: &Path) -> Option<u32> {
    holder(&File::open(directory).ok()?)
}

/// The process that holds a lock on `file`; none when it has just let go, or is
/// in a container of its own and not seen from here.
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let place = format!(
        "{:02x}:{:02x}:{inode}",
        libc::major(device),
        libc::minor(device)
    );
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| held_at(line, &place))
}

/// The process of a line of /proc/locks (proc_locks(5)) when it is about a lock
/// held on the file at `place`.
fn held_at(line: &str, place: &str) -> Option<u32> {
    // 1: FLOCK  ADVISORY  WRITE 27183 00:04:4026532177 0 EOF
    // Those that wait have an arrow in the second column.
    let mut fields = line.split_whitespace().skip(1);
    let is_flock = fields.next()? == "FLOCK";
    let pid = fields.nth(2)?.parse().ok()?;
    (is_flock && fields.next()? == place).then_some(pid)
}

/// The thread's network namespace, and its inode, by which links name it.
///
/// # Errors
/// When procfs is not mounted.
pub fn network_namespace() -> Result<(File, u32), DatapathError> {
    let path = Path::new("/proc/thread-self/ns/net");
    let file = File::open(path).map_err(DatapathError::file("open", path))?;
    let inode = file
        .metadata()
        .map_err(DatapathError::file("read", path))?
        .ino();
    // Inodes of namespaces are 32 bits wide (proc_alloc_inum).
    Ok((file, inode as u32))
}

#[cfg(test)]
mod tests {
    use super::held_at;

    #[test]
    fn the_holder_is_found_among_other_locks() {
        let locks = [
            "1: POSIX  ADVISORY  WRITE 11 00:04:77 0 EOF",
            "2: FLOCK  ADVISORY  WRITE 12 00:05:77 0 EOF",
            "3: -> FLOCK  ADVISORY  WRITE 13 00:04:77 0 EOF",
            "4: FLOCK  ADVISORY  WRITE 14 00:04:77 0 EOF",
            "",
        ];
        let holder = |place| locks.iter().find_map(|line| held_at(line, place));
        assert_eq!(holder("00:04:77"), Some(14));
        assert_eq!(holder("00:04:78"), None);
    }
}
