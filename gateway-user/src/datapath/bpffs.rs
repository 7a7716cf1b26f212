// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory of pins: mounted where needed, one agent at a time, one
//! layout.
//!
//! ```text
//! <bpffs>/v1/maps/FLOWS …
//! <bpffs>/v1/links/{tc,xdp}_<interface>, sk_lookup
//! ```

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use gateway_common::names::LAYOUT_VERSION;

use crate::datapath::DatapathError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: libc::__fsword_t = 0xcafe_4a11;

/// Held by the one agent that works on the pins.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child being forked holds a copy until it
        // runs its program.
        let _ = self.0.unlock();
    }
}

/// Where the pins of this layout are.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Below `bpffs`.
    pub fn new(bpffs: &Path) -> Self {
        Self {
            root: bpffs.to_owned(),
        }
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// Of maps.
    pub fn maps(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// Of links.
    pub fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    /// Makes the directories, mounting a bpffs where none is.
    ///
    /// # Errors
    /// When that is not possible, or another layout is there.
    pub fn create(&self) -> Result<(), DatapathError> {
        mount(&self.root)?;
        for entry in read(&self.root)? {
            let name = entry.to_string_lossy().into_owned();
            if name != format!("v{LAYOUT_VERSION}") && is_layout(&name) {
                return Err(DatapathError::OtherLayout {
                    path: self.root.clone(),
                    found: name,
                    wanted: format!("v{LAYOUT_VERSION}"),
                });
            }
        }
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory)
                .map_err(DatapathError::file("create the directory", directory))?;
        }
        Ok(())
    }

    /// Keeps other agents from these pins for as long as it is held; none when
    /// nothing was ever pinned here.
    ///
    /// # Errors
    /// [`DatapathError::InUse`] when another agent holds it.
    pub fn lock(&self) -> Result<Option<Lock>, DatapathError> {
        let directory = match File::open(&self.root) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(DatapathError::file("open", &self.root)(error)),
        };
        match directory.try_lock() {
            Ok(()) => Ok(Some(Lock(directory))),
            Err(fs::TryLockError::WouldBlock) => Err(DatapathError::InUse {
                path: self.root.clone(),
            }),
            Err(fs::TryLockError::Error(error)) => {
                Err(DatapathError::file("lock", &self.root)(error))
            }
        }
    }

    /// The process of the agent that holds the lock; none without one, or when
    /// it cannot be seen from this process namespace.
    pub fn agent(&self) -> Option<u32> {
        use std::os::unix::fs::MetadataExt;
        let root = fs::metadata(&self.root).ok()?;
        let device = root.dev();
        // proc_locks(5): number, kind, mode, access, process, device:inode …
        let file = format!(
            "{:02x}:{:02x}:{}",
            libc::major(device),
            libc::minor(device),
            root.ino()
        );
        let locks = fs::read_to_string("/proc/locks").ok()?;
        locks.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let ours = words.next() == Some("FLOCK");
            let process = words.nth(2)?;
            (ours && words.next() == Some(&file)).then(|| process.parse().ok())?
        })
    }

    /// The layouts present, this one's or not.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn layouts(&self) -> Result<Vec<PathBuf>, DatapathError> {
        let names = read(&self.root)?;
        let layouts = names
            .iter()
            .filter(|name| is_layout(&name.to_string_lossy()));
        Ok(layouts.map(|name| self.root.join(name)).collect())
    }
}

fn is_layout(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The names in a directory; none when it does not exist.
///
/// # Errors
/// When it cannot be read.
pub fn read(directory: &Path) -> Result<Vec<std::ffi::OsString>, DatapathError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DatapathError::file("read the directory", directory)(error)),
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(DatapathError::file("read the directory", directory))?;
    names.sort_unstable();
    Ok(names)
}

/// Makes `root` a directory on a bpffs: one that is mounted above it, else the
/// usual one at /sys/fs/bpf, else one of its own.
fn mount(root: &Path) -> Result<(), DatapathError> {
    let usual = Path::new("/sys/fs/bpf");
    let existing = root.ancestors().find(|path| path.exists());
    if !existing.is_some_and(is_bpffs) {
        let target = if root.starts_with(usual) && usual.exists() {
            usual
        } else {
            fs::create_dir_all(root).map_err(DatapathError::file("create the directory", root))?;
            root
        };
        mount_bpffs(target).map_err(DatapathError::file("mount a bpffs on", target))?;
    }
    fs::create_dir_all(root).map_err(DatapathError::file("create the directory", root))
}

fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` is a C string and `found` has room for the answer.
    let result = unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) };
    if result != 0 {
        return false;
    }
    // SAFETY: statfs succeeded, so it has filled `found`.
    let found = unsafe { found.assume_init() };
    found.f_type == BPF_FS_MAGIC
}

fn mount_bpffs(target: &Path) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: every pointer is a C string or null, and lives through the call.
    let result = unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            target.as_ptr(),
            c"bpf".as_ptr(),
            0,
            c"mode=0700".as_ptr().cast(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The inode of the thread's network namespace, by which links name it.
///
/// # Errors
/// When procfs is not mounted.
pub fn network_namespace() -> Result<(File, u32), DatapathError> {
    use std::os::unix::fs::MetadataExt;
    let path = Path::new("/proc/thread-self/ns/net");
    let file = File::open(path).map_err(DatapathError::file("open", path))?;
    let inode = file
        .metadata()
        .map_err(DatapathError::file("read", path))?
        .ino();
    // Inodes of namespaces are 32 bits wide (proc_alloc_inum).
    Ok((file, inode as u32))
}
