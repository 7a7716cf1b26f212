// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The directory of pins: mounted where needed, of one layout.
//!
//! ```text
//! <bpffs>/v1/maps/FLOWS …
//! <bpffs>/v1/links/{tc,filter,xdp}_<interface>, sk_lookup
//! ```

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use gateway_common::names::LAYOUT_VERSION;

use crate::datapath::DatapathError;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: libc::__fsword_t = 0xcafe_4a11;

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

    /// The directory of all layouts.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directories, mounting a bpffs where none is. What another
    /// layout has pinned is left alone and goes on working.
    ///
    /// # Errors
    /// When that is not possible, or another layout is there.
    pub fn create(&self) -> Result<(), DatapathError> {
        mount(&self.root)?;
        for entry in read(&self.root)? {
            if let Some(found) = layout(&entry.to_string_lossy())
                && found != LAYOUT_VERSION
            {
                return Err(DatapathError::OtherLayout {
                    path: self.root.clone(),
                    found,
                    wanted: LAYOUT_VERSION,
                });
            }
        }
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory)
                .map_err(DatapathError::file("create the directory", directory))?;
        }
        Ok(())
    }

    /// The layouts present, this one's or not.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn layouts(&self) -> Result<Vec<PathBuf>, DatapathError> {
        let names = read(&self.root)?;
        let layouts = names
            .iter()
            .filter(|name| layout(&name.to_string_lossy()).is_some());
        Ok(layouts.map(|name| self.root.join(name)).collect())
    }
}

/// The version of the layout in a directory of this name.
fn layout(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('v')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u32::MAX))
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
