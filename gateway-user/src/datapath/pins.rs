// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where programs are attached, as the pins say.

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::programs::ProgramInfo;

use crate::datapath::{
    bpffs, fault, filter,
    hook::{FILTER_PREFIX, Hook},
    links::{Attached, PinnedLink},
};

/// One a network namespace, so it needs no name of its own.
pub const SK_LOOKUP_PIN: &str = "sk_lookup";

/// A link that is pinned on an interface.
pub struct OwnLink {
    /// The pin.
    pub pin: PathBuf,
    /// Which hook its name says.
    pub hook: Hook,
    /// Its two ends.
    pub at: Attached,
}

/// The links that are pinned, of this agent or the one before; no filters.
/// One that cannot be read is none of them.
pub fn own(links: &Path) -> Vec<OwnLink> {
    let names = bpffs::read(links).unwrap_or_default();
    let own = names.iter().filter_map(|name| {
        let text = name.to_string_lossy();
        let is_at = |hook: &&Hook| text.starts_with(hook.prefix());
        let hook = *Hook::ALL.iter().find(is_at)?;
        if hook == Hook::TcFilter {
            return None;
        }
        let pin = links.join(name);
        let at = PinnedLink::open(&pin).ok()??.describe().ok()?;
        Some(OwnLink { pin, hook, at })
    });
    own.collect()
}

/// The programs of links.
pub fn ids(own: &[OwnLink]) -> BTreeSet<u32> {
    own.iter().map(|link| link.at.program_id).collect()
}

/// The pinned attachment of an interface: where (`xdp-native`, `xdp-generic`,
/// `tcx`, `tc-filter`) and the kernel's id of the program. Needs no agent.
///
/// # Errors
/// When a pin cannot be opened.
pub fn found(links: &Path, name: &str, index: u32) -> io::Result<Option<(&'static str, u32)>> {
    for hook in Hook::ALL {
        let pin = hook.pin(links, name);
        if hook == Hook::TcFilter {
            if pin.exists() {
                let program = ProgramInfo::from_pin(&pin).map_err(io::Error::other)?;
                return Ok(Some((hook.name(), program.id())));
            }
        } else if let Some(link) = PinnedLink::open(&pin)? {
            let at = link.describe()?;
            if at.target == index {
                return Ok(Some((hook.name(), at.program_id)));
            }
        }
    }
    Ok(None)
}

/// The inode of the network namespace that the pinned steering program is
/// attached to; none when it is not.
///
/// # Errors
/// When the pin cannot be opened.
pub fn namespace(links: &Path) -> io::Result<Option<u32>> {
    let link = PinnedLink::open(&links.join(SK_LOOKUP_PIN))?;
    Ok(link
        .map(|link| link.describe())
        .transpose()?
        .map(|at| at.target))
}

/// Gives the link pinned at `pin` a new program; false when there is none on
/// `target`. One that is left from another target is ended.
///
/// # Errors
/// When the kernel refuses.
pub fn replace(pin: &Path, target: u32, program: BorrowedFd<'_>) -> io::Result<bool> {
    let Some(link) = PinnedLink::open(pin)? else {
        return Ok(false);
    };
    if link.describe()?.target == target {
        fault::point()?;
        match link.replace(program) {
            Ok(()) => return Ok(true),
            // It went away just now.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error),
        }
    }
    end(pin)?;
    Ok(false)
}

/// Detaches the link pinned at `pin`, or the filter it stands for, and removes
/// the pin; nothing there is fine.
///
/// # Errors
/// When something is there and stays.
pub fn end(pin: &Path) -> io::Result<()> {
    let name = pin.file_name().unwrap_or_default().to_string_lossy();
    if let Some(interface) = name.strip_prefix(FILTER_PREFIX) {
        return filter::end(&interface.replace(':', "."), pin);
    }
    if let Some(link) = PinnedLink::open(pin)? {
        fault::point()?;
        link.detach()?;
        fault::point()?;
        fs::remove_file(pin)?;
    }
    Ok(())
}
