// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs on interfaces and on the network namespace.
//!
//! Every attachment is a pinned link, or where there is no tcx a filter (see
//! [`filter`]). One that is already there gets the new program by an atomic
//! update; where the hook changes, the new link is made before the old one ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, SchedClassifier, SkLookup, TcAttachType, Xdp, XdpMode, links::FdLink,
        tc::TcAttachOptions,
    },
};
use gateway_common::names::PROG_SK_LOOKUP;

use crate::datapath::{
    AttachMode, DatapathError, bpffs,
    error::Cause,
    ethtool, exclusive, fault, filter,
    foreign::{self, Foreign},
    hook::{self, Hook},
    interfaces::{Interface, Role},
    links,
    netlink::Netlink,
    pins::{self, OwnLink, SK_LOOKUP_PIN},
    report::InterfaceReport,
};

#[derive(Debug)]
struct Attachment {
    index: u32,
    role: Role,
    hook: Hook,
    program_id: u32,
    driver: Option<String>,
    /// Why this hook.
    reason: String,
    /// Who else is there.
    foreign: Vec<Foreign>,
    /// Whether `foreign` was looked up.
    known: bool,
}

impl Attachment {
    /// Pods come and go by the hundred, all for the same reason.
    fn tell(&self, interface: &str) {
        let Self {
            hook,
            role,
            program_id,
            reason,
            ..
        } = self;
        let (mode, driver) = (hook.name(), self.driver.as_deref());
        match role {
            Role::Wire => {
                tracing::info!(interface, mode, driver, program_id, reason, "attached");
            }
            Role::Pod => {
                tracing::debug!(interface, mode, driver, program_id, reason, "attached");
            }
        }
    }
}

/// The attachments of this agent.
#[derive(Debug)]
pub struct Attachments {
    links: PathBuf,
    mode: AttachMode,
    tcx: bool,
    against: Option<&'static str>,
    attached: BTreeMap<String, Attachment>,
}

impl Attachments {
    /// None yet.
    pub fn new(links: PathBuf, mode: AttachMode) -> Self {
        Self {
            links,
            mode,
            tcx: links::has_tcx(),
            against: None,
            attached: BTreeMap::new(),
        }
    }

    /// Attaches to interfaces that are new, and forgets those that are gone.
    /// `against` is what speaks against XDP on wires beside pods. What failed is returned
    /// with the interface's role; the rest goes on.
    pub fn follow(
        &mut self,
        ebpf: &mut Ebpf,
        netlink: &mut Netlink,
        wanted: &BTreeMap<String, (Interface, Role)>,
        against: Option<&'static str>,
    ) -> (bool, Vec<(Role, DatapathError)>) {
        let mut failed = Vec::new();
        let (mode, tcx) = (self.mode, self.tcx);
        self.against = against;
        let pods = wanted.values().any(|(_, role)| *role == Role::Pod);
        let against = (pods.then_some(hook::PODS)).or(against);
        let before = self.attached.len();
        self.attached.retain(|name, attached| {
            wanted.get(name).is_some_and(|(interface, role)| {
                let (hooks, _) = Hook::choose(mode, interface, *role, against, tcx);
                (interface.index, *role) == (attached.index, attached.role)
                    && hooks.contains(&attached.hook)
            })
        });
        let mut changed = self.attached.len() != before;
        let mut own = pins::own(&self.links);
        // Also those that end below: `wanted` may name them still.
        let mut ours = pins::ids(&own);
        for (name, (interface, role)) in wanted {
            if self.attached.contains_key(name) {
                continue;
            }
            let attached = self
                .take_along(&mut own, name, interface.index)
                .map_err(Cause::from)
                .and_then(|()| self.attach(ebpf, &own, name, interface, *role, against));
            match attached {
                Ok(attachment) => {
                    ours.insert(attachment.program_id);
                    self.attached.insert(name.clone(), attachment);
                    changed = true;
                }
                Err(cause) => {
                    let (hooks, _) = Hook::choose(mode, interface, *role, against, tcx);
                    let error = DatapathError::Attach {
                        program: hooks.first().map_or("", |hook| hook.program()),
                        target: name.clone(),
                        cause,
                    };
                    failed.push((*role, error));
                }
            }
        }
        self.look_for_others(netlink, wanted, &ours);
        // After a failure, what was there before is better than nothing.
        if changed
            && failed.is_empty()
            && let Err(error) = self.sweep()
        {
            failed.push((Role::Pod, error));
        }
        (changed, failed)
    }

    /// Gives the links of an interface that was renamed the names they have now.
    fn take_along(&self, own: &mut Vec<OwnLink>, name: &str, index: u32) -> io::Result<()> {
        for hook in Hook::ALL {
            let pin = hook.pin(&self.links, name);
            let renamed =
                |link: &OwnLink| (link.hook, link.at.target) == (hook, index) && link.pin != pin;
            if let Some(position) = own.iter().position(renamed) {
                // A link under that name ends: its interface is called otherwise
                // now, and is attached anew.
                fs::rename(&own[position].pin, &pin)?;
                own[position].pin.clone_from(&pin);
                own.retain(|link| link.pin != pin || link.at.target == index);
            }
        }
        Ok(())
    }

    fn attach(
        &self,
        ebpf: &mut Ebpf,
        own: &[OwnLink],
        name: &str,
        interface: &Interface,
        role: Role,
        against: Option<&'static str>,
    ) -> Result<Attachment, Cause> {
        let (hooks, reason) = Hook::choose(self.mode, interface, role, against, self.tcx);
        let taken = foreign::xdp(interface, &pins::ids(own));
        let mut reason = reason.to_owned();
        let mut refusal: Cause = "no hook to try".into();
        for hook in hooks {
            let attached = match &taken {
                Some(other) if hook.is_xdp() => Err(format!(
                    "the {} is there: remove it, or set `attach: tc`",
                    other.subject()
                )
                .into()),
                _ => self.attach_at(ebpf, own, *hook, name, interface.index),
            };
            match attached {
                Ok(program_id) => {
                    let attachment = Attachment {
                        index: interface.index,
                        role,
                        hook: *hook,
                        program_id,
                        driver: ethtool::driver(name),
                        reason,
                        foreign: Vec::new(),
                        known: false,
                    };
                    attachment.tell(name);
                    return Ok(attachment);
                }
                // The last one is told: it is the one that was left.
                Err(error) => {
                    reason = match &taken {
                        Some(other) => format!("auto: the {} is there", other.subject()),
                        None => format!("auto: {} refused: {error}", hook.name()),
                    };
                    refusal = error;
                }
            }
        }
        Err(refusal)
    }

    fn attach_at(
        &self,
        ebpf: &mut Ebpf,
        own: &[OwnLink],
        hook: Hook,
        name: &str,
        index: u32,
    ) -> Result<u32, Cause> {
        let pin = hook.pin(&self.links, name);
        let program_id = {
            let program = program(ebpf, hook.program())?;
            let program_id = program.info()?.id();
            if hook == Hook::TcFilter {
                fault::point()?;
                filter::attach(program.try_into()?, name, &pin)?;
                return Ok(program_id);
            }
            if pins::replace(&pin, index, program.fd()?.as_fd())? {
                return Ok(program_id);
            }
            program_id
        };
        // A device takes one mode of XDP at a time: tc stands in while it
        // changes, until the sweep.
        let other_mode = |link: &&OwnLink| {
            hook.is_xdp() && link.hook.is_xdp() && link.hook != hook && link.at.target == index
        };
        if let Some(link) = own.iter().find(other_mode) {
            self.attach_at(ebpf, own, Hook::tc(self.tcx), name, index)?;
            pins::end(&link.pin)?;
        }
        fault::point()?;
        let program = program(ebpf, hook.program())?;
        let link: FdLink = match hook {
            Hook::Tc | Hook::TcFilter => {
                let program: &mut SchedClassifier = program.try_into()?;
                // After those that are there already.
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
        fault::point()?;
        link.pin(&pin)?;
        Ok(program_id)
    }

    /// Finds programs of others and says so, once each.
    fn look_for_others(
        &mut self,
        netlink: &mut Netlink,
        wanted: &BTreeMap<String, (Interface, Role)>,
        ours: &BTreeSet<u32>,
    ) {
        for (name, attached) in &mut self.attached {
            // Of the many pods' interfaces each is looked at once.
            if attached.role == Role::Pod && std::mem::replace(&mut attached.known, true) {
                continue;
            }
            let mut found = foreign::tc(netlink, name, attached.index, ours);
            if let Some((interface, _)) = wanted.get(name) {
                found.extend(foreign::xdp(interface, ours));
            }
            for other in &found {
                if !attached.foreign.contains(other) {
                    tracing::warn!(interface = name, "not alone: {other}");
                }
            }
            attached.foreign = found;
        }
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
                pins::end(&pin).map_err(DatapathError::file("remove the link", pin))?;
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
                driver: attached.driver.clone(),
                program_id: attached.program_id,
                reason: attached.reason.clone(),
                others: attached.foreign.iter().map(Foreign::to_string).collect(),
                drops: BTreeMap::new(),
            })
            .collect()
    }

    /// Names of the interfaces in use.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.attached.keys().map(String::as_str)
    }

    /// Indices of the interfaces in use.
    pub fn indices(&self) -> BTreeSet<u32> {
        self.attached.values().map(|a| a.index).collect()
    }

    /// Indices and names of the wire interfaces in use.
    pub fn wires(&self) -> impl Iterator<Item = (u32, String)> {
        let attached = self.attached.iter();
        attached
            .filter(|(_, a)| a.role == Role::Wire)
            .map(|(name, a)| (a.index, name.clone()))
    }

    /// Whether any interface has its program at XDP.
    pub fn any_at_xdp(&self) -> bool {
        self.attached.values().any(|a| a.hook.is_xdp())
    }

    /// What [`Attachments::follow`] was told to speak against XDP.
    pub fn against_xdp(&self) -> Option<&'static str> {
        self.against
    }

    /// Indices of the interfaces that have their program at tc.
    pub fn at_tc(&self) -> BTreeSet<u32> {
        let attached = self.attached.values();
        let at_tc = attached.filter(|a| !a.hook.is_xdp());
        at_tc.map(|a| a.index).collect()
    }

    /// Indices of the interfaces that have their program at XDP in the driver.
    pub fn natives(&self) -> BTreeSet<u32> {
        let attached = self.attached.values();
        let natives = attached.filter(|a| a.hook == Hook::XdpNative);
        natives.map(|a| a.index).collect()
    }

    /// Indices of the pod interfaces in use.
    pub fn pods(&self) -> impl Iterator<Item = u32> {
        let attached = self.attached.values();
        attached.filter(|a| a.role == Role::Pod).map(|a| a.index)
    }
}

/// Attaches the steering program to the thread's network namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn attach_sk_lookup(ebpf: &mut Ebpf, links: &Path) -> Result<(), DatapathError> {
    let (namespace, inode) = exclusive::network_namespace()?;
    let pin = links.join(SK_LOOKUP_PIN);
    let mut run = || -> Result<(), Cause> {
        let program = program(ebpf, PROG_SK_LOOKUP)?;
        if pins::replace(&pin, inode, program.fd()?.as_fd())? {
            return Ok(());
        }
        let program: &mut SkLookup = program.try_into()?;
        fault::point()?;
        let id = program.attach(&namespace)?;
        let link = FdLink::from(program.take_link(id)?);
        fault::point()?;
        link.pin(&pin)?;
        Ok(())
    };
    run().map_err(|cause| DatapathError::Attach {
        program: PROG_SK_LOOKUP,
        target: "the network namespace".to_owned(),
        cause,
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, Cause> {
    ebpf.program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}").into())
}
