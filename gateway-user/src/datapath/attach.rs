// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs on interfaces and on the network namespace.
//!
//! Every attachment is a pinned link. One that is already there gets the new
//! program by an atomic update; where the hook changes, the new link is made
//! before the old one ends.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, SchedClassifier, SkLookup, TcAttachType, Xdp, XdpMode, links::FdLink,
        tc::TcAttachOptions,
    },
};
use gateway_common::names::{PROG_SK_LOOKUP, PROG_TC, PROG_XDP};

use crate::datapath::{
    AttachMode, DatapathError, bpffs,
    error::Cause,
    interfaces::{Interface, Role},
    links::PinnedLink,
    report::InterfaceReport,
};

/// One a network namespace, so it needs no name of its own.
const SK_LOOKUP_PIN: &str = "sk_lookup";

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    XdpNative,
    XdpGeneric,
    Tc,
}

impl Hook {
    fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::XdpNative | Self::XdpGeneric => PROG_XDP,
            Self::Tc => PROG_TC,
        }
    }

    /// Modes of XDP have names of their own: changing the mode is another link.
    fn prefix(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp_",
            Self::XdpGeneric => "xdpgeneric_",
            Self::Tc => "tc_",
        }
    }

    const ALL: [Self; 3] = [Self::XdpNative, Self::XdpGeneric, Self::Tc];

    /// What to try, in order. With local pods, `auto` leaves XDP alone: a frame
    /// that XDP redirects to a veth device whose other end has no NAPI (neither
    /// an XDP program nor GRO, as in most pods) is lost (veth_xdp_xmit).
    fn candidates(
        mode: AttachMode,
        interface: &Interface,
        role: Role,
        pods: bool,
    ) -> &'static [Self] {
        match (role, mode) {
            (Role::Pod, _) | (Role::Wire, AttachMode::Tc) => &[Self::Tc],
            (Role::Wire, AttachMode::Auto) if interface.is_virtual || pods => &[Self::Tc],
            (Role::Wire, AttachMode::Auto) => &[Self::XdpNative, Self::Tc],
            (Role::Wire, AttachMode::XdpNative) => &[Self::XdpNative],
            (Role::Wire, AttachMode::XdpGeneric) => &[Self::XdpGeneric],
        }
    }

    /// bpffs reserves dots, and no interface name holds a colon.
    fn pin(self, links: &Path, interface: &str) -> PathBuf {
        links.join(format!("{}{}", self.prefix(), interface.replace('.', ":")))
    }
}

#[derive(Debug)]
struct Attachment {
    index: u32,
    role: Role,
    hook: Hook,
    program_id: u32,
}

/// The attachments of this agent.
#[derive(Debug)]
pub struct Attachments {
    links: PathBuf,
    mode: AttachMode,
    attached: BTreeMap<String, Attachment>,
}

impl Attachments {
    /// None yet.
    pub fn new(links: PathBuf, mode: AttachMode) -> Self {
        Self {
            links,
            mode,
            attached: BTreeMap::new(),
        }
    }

    /// Attaches to interfaces that are new, and forgets those that are gone.
    /// What failed is returned with the interface's role; the rest goes on.
    pub fn follow(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: &BTreeMap<String, (Interface, Role)>,
    ) -> (bool, Vec<(Role, DatapathError)>) {
        let mut failed = Vec::new();
        let mode = self.mode;
        let pods = wanted.values().any(|(_, role)| *role == Role::Pod);
        let before = self.attached.len();
        self.attached.retain(|name, attached| {
            wanted.get(name).is_some_and(|(interface, role)| {
                (interface.index, *role) == (attached.index, attached.role)
                    && Hook::candidates(mode, interface, *role, pods).contains(&attached.hook)
            })
        });
        let mut changed = self.attached.len() != before;
        for (name, (interface, role)) in wanted {
            if self.attached.contains_key(name) {
                continue;
            }
            match self.attach(ebpf, name, interface, *role, pods) {
                Ok(attachment) => {
                    self.attached.insert(name.clone(), attachment);
                    changed = true;
                }
                Err(error) => failed.push((*role, error)),
            }
        }
        // After a failure, what was there before is better than nothing.
        if changed
            && failed.is_empty()
            && let Err(error) = self.sweep()
        {
            failed.push((Role::Pod, error));
        }
        (changed, failed)
    }

    fn attach(
        &self,
        ebpf: &mut Ebpf,
        name: &str,
        interface: &Interface,
        role: Role,
        pods: bool,
    ) -> Result<Attachment, DatapathError> {
        let mut refusal = None;
        for hook in Hook::candidates(self.mode, interface, role, pods) {
            match self.attach_at(ebpf, *hook, name, interface.index) {
                Ok(program_id) => {
                    return Ok(Attachment {
                        index: interface.index,
                        role,
                        hook: *hook,
                        program_id,
                    });
                }
                // The last one is told: it is the one that was left.
                Err(error) => refusal = Some((*hook, error)),
            }
        }
        let (hook, cause) = refusal.unwrap_or((Hook::Tc, "no hook to try".into()));
        Err(DatapathError::Attach {
            program: hook.program(),
            target: name.to_owned(),
            cause,
        })
    }

    fn attach_at(&self, ebpf: &mut Ebpf, hook: Hook, name: &str, index: u32) -> Result<u32, Cause> {
        let pin = hook.pin(&self.links, name);
        let program = program(ebpf, hook.program())?;
        let program_id = program.info()?.id();
        if replace(&pin, index, program.fd()?.as_fd())? {
            return Ok(program_id);
        }
        // A device takes one mode of XDP at a time.
        for other in [Hook::XdpNative, Hook::XdpGeneric] {
            if hook != Hook::Tc && other != hook {
                end(&other.pin(&self.links, name))?;
            }
        }
        let link: FdLink = match hook {
            Hook::Tc => {
                let program: &mut SchedClassifier = program.try_into()?;
                let id = program.attach_with_options(
                    name,
                    TcAttachType::Ingress,
                    TcAttachOptions::TcxOrder(LinkOrder::default()),
                )?;
                program.take_link(id)?.try_into()?
            }
            Hook::XdpNative | Hook::XdpGeneric => {
                let mode = match hook {
                    Hook::XdpGeneric => XdpMode::Skb,
                    _ => XdpMode::Driver,
                };
                let program: &mut Xdp = program.try_into()?;
                let id = program.attach_to_if_index(index, mode)?;
                program.take_link(id)?.try_into()?
            }
        };
        link.pin(&pin)?;
        Ok(program_id)
    }

    /// Ends every link that is not one of ours any more: of interfaces that are
    /// gone or no longer wanted, and of hooks given up for another.
    fn sweep(&self) -> Result<(), DatapathError> {
        let ours: Vec<PathBuf> = self
            .attached
            .iter()
            .map(|(name, attached)| attached.hook.pin(&self.links, name))
            .collect();
        for name in bpffs::read(&self.links)? {
            let pin = self.links.join(&name);
            let text = name.to_string_lossy();
            let on_interface = Hook::ALL.iter().any(|hook| text.starts_with(hook.prefix()));
            if on_interface && !ours.contains(&pin) {
                end(&pin).map_err(DatapathError::file("remove the link", pin))?;
            }
        }
        Ok(())
    }

    /// For reports.
    pub fn report(&self) -> Vec<InterfaceReport> {
        self.attached
            .iter()
            .map(|(name, attached)| InterfaceReport {
                name: name.clone(),
                index: attached.index,
                role: attached.role.name(),
                mode: attached.hook.name(),
                program_id: attached.program_id,
            })
            .collect()
    }

    /// Names of the interfaces in use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.attached.keys().map(String::as_str)
    }

    /// Indices of the pod interfaces in use.
    pub fn pods(&self) -> impl Iterator<Item = u32> {
        let attached = self.attached.values();
        attached.filter(|a| a.role == Role::Pod).map(|a| a.index)
    }
}

/// The pinned attachment of an interface: where (`xdp-native`, `xdp-generic`,
/// `tc`) and the kernel's id of the program. Needs no agent.
///
/// # Errors
/// When a pin cannot be opened.
pub fn found(links: &Path, name: &str, index: u32) -> io::Result<Option<(&'static str, u32)>> {
    for hook in Hook::ALL {
        if let Some(link) = PinnedLink::open(&hook.pin(links, name))?
            && link.target()? == index
        {
            return Ok(Some((hook.name(), link.program_id()?)));
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
    link.map(|link| link.target()).transpose()
}

/// Attaches the steering program to the thread's network namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn attach_sk_lookup(ebpf: &mut Ebpf, links: &Path) -> Result<(), DatapathError> {
    let (namespace, inode) = bpffs::network_namespace()?;
    let pin = links.join(SK_LOOKUP_PIN);
    let mut run = || -> Result<(), Cause> {
        let program = program(ebpf, PROG_SK_LOOKUP)?;
        if replace(&pin, inode, program.fd()?.as_fd())? {
            return Ok(());
        }
        let program: &mut SkLookup = program.try_into()?;
        let id = program.attach(&namespace)?;
        FdLink::from(program.take_link(id)?).pin(&pin)?;
        Ok(())
    };
    run().map_err(|cause| DatapathError::Attach {
        program: PROG_SK_LOOKUP,
        target: "the network namespace".to_owned(),
        cause,
    })
}

/// Gives the link pinned at `pin` a new program; false when there is none on
/// `target`. One that is left from another target is ended.
fn replace(pin: &Path, target: u32, program: BorrowedFd<'_>) -> io::Result<bool> {
    let Some(link) = PinnedLink::open(pin)? else {
        return Ok(false);
    };
    if link.target()? == target {
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

/// Detaches the link pinned at `pin` and removes the pin; nothing there is
/// fine.
///
/// # Errors
/// When something is there and stays.
pub fn end(pin: &Path) -> io::Result<()> {
    if let Some(link) = PinnedLink::open(pin)? {
        link.detach()?;
        fs::remove_file(pin)?;
    }
    Ok(())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Cause> {
    ebpf.program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}").into())
}
