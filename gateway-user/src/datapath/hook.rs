// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which hook of an interface to take, and why: pure.

use std::path::{Path, PathBuf};

use gateway_common::names::{PROG_TC, PROG_XDP};

use crate::datapath::{
    AttachMode,
    interfaces::{Interface, Role},
};

/// Of the names of pins that stand for filters.
pub const FILTER_PREFIX: &str = "filter_";

/// Where a program sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the driver.
    XdpNative,
    /// XDP in the stack.
    XdpGeneric,
    /// tc ingress by a tcx link.
    Tc,
    /// tc ingress by a filter, on a kernel without tcx.
    TcFilter,
}

/// Against XDP, with local pods: a veth device sends what XDP redirects to it only
/// if its other end has an XDP program or GRO, as in few pods (`veth_xdp_xmit`).
pub const PODS: &str = "auto: most pods take no frames that XDP redirects to them";

/// Against XDP, with backends behind devices that send no redirected frames, as
/// VLANs and bridges.
pub const EGRESS: &str =
    "auto: an interface that leads to backends sends no frames that XDP redirects to it";

/// Against XDP, with backends that see the addresses of clients: XDP cannot mark
/// what is for a socket of the agent.
pub const CLIENTS: &str = "auto: replies to connections from client addresses need tc";

/// Hooks to try in order, and what speaks for them.
pub type Choice = (&'static [Hook], &'static str);

impl Hook {
    /// Every hook.
    pub const ALL: [Self; 4] = [Self::XdpNative, Self::XdpGeneric, Self::Tc, Self::TcFilter];

    /// The word for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tcx",
            Self::TcFilter => "tc-filter",
        }
    }

    /// The program that runs there.
    pub fn program(self) -> &'static str {
        match self {
            Self::XdpNative | Self::XdpGeneric => PROG_XDP,
            Self::Tc | Self::TcFilter => PROG_TC,
        }
    }

    /// tc on a kernel with tcx or without.
    pub fn tc(tcx: bool) -> Self {
        if tcx { Self::Tc } else { Self::TcFilter }
    }

    /// Whether it is one of a device's modes of XDP.
    pub fn is_xdp(self) -> bool {
        matches!(self, Self::XdpNative | Self::XdpGeneric)
    }

    /// Of the names of its pins. Modes of XDP have names of their own: changing
    /// the mode is another link.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp_",
            Self::XdpGeneric => "xdpgeneric_",
            Self::Tc => "tc_",
            Self::TcFilter => FILTER_PREFIX,
        }
    }

    /// Where its link is pinned. bpffs reserves dots, and no interface name
    /// holds a colon.
    pub fn pin(self, links: &Path, interface: &str) -> PathBuf {
        links.join(format!("{}{}", self.prefix(), interface.replace('.', ":")))
    }

    /// What to try on an interface. Where something speaks against XDP, `auto`
    /// leaves it alone.
    pub fn choose(
        mode: AttachMode,
        interface: &Interface,
        role: Role,
        against_xdp: Option<&'static str>,
        tcx: bool,
    ) -> Choice {
        const ASKED: &str = "asked for by `attach`";
        let all: &'static [Self] = if tcx {
            &[Self::XdpNative, Self::Tc]
        } else {
            &[Self::XdpNative, Self::TcFilter]
        };
        let tc = &all[1..];
        match (role, mode) {
            (Role::Pod, _) => (
                tc,
                "pods hand over super-packets with partial checksums, which only tc takes",
            ),
            (Role::Wire, AttachMode::Tc) => (tc, ASKED),
            (Role::Wire, AttachMode::XdpNative) => (&[Self::XdpNative], ASKED),
            (Role::Wire, AttachMode::XdpGeneric) => (&[Self::XdpGeneric], ASKED),
            (Role::Wire, AttachMode::Auto) if interface.is_virtual => (
                tc,
                "auto: a virtual device hands over super-packets, which only tc takes",
            ),
            (Role::Wire, AttachMode::Auto) => match against_xdp {
                Some(reason) => (tc, reason),
                None => (all, "auto: the driver runs XDP programs"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EGRESS, Hook, PODS};
    use crate::datapath::{
        AttachMode,
        interfaces::{Interface, Role},
    };

    #[test]
    fn auto_takes_native_xdp_on_a_card_without_pods_only() {
        let choose = |mode, is_virtual, role, against| {
            let interface = Interface {
                is_virtual,
                ..Interface::default()
            };
            Hook::choose(mode, &interface, role, against, true)
        };
        let auto = AttachMode::Auto;
        let (hooks, reason) = choose(auto, false, Role::Wire, None);
        assert_eq!(hooks, [Hook::XdpNative, Hook::Tc]);
        assert!(reason.contains("driver"), "{reason}");
        for (is_virtual, role, against, word) in [
            (true, Role::Wire, None, "virtual"),
            (false, Role::Wire, Some(PODS), "pods"),
            (false, Role::Wire, Some(EGRESS), "backends"),
            (false, Role::Pod, Some(PODS), "super-packets"),
        ] {
            let (hooks, reason) = choose(auto, is_virtual, role, against);
            assert_eq!(hooks, [Hook::Tc]);
            assert!(reason.contains(word), "{reason}");
        }
        let wire = Interface::default();
        let (hooks, _) = Hook::choose(auto, &wire, Role::Wire, None, false);
        assert_eq!(hooks, [Hook::XdpNative, Hook::TcFilter], "without tcx");
        for (mode, hook) in [
            (AttachMode::XdpNative, Hook::XdpNative),
            (AttachMode::XdpGeneric, Hook::XdpGeneric),
            (AttachMode::Tc, Hook::Tc),
        ] {
            let (hooks, reason) = choose(mode, true, Role::Wire, Some(PODS));
            assert_eq!(hooks, [hook], "without another try");
            assert!(reason.contains("asked"), "{reason}");
            let (hooks, _) = choose(mode, true, Role::Pod, Some(PODS));
            assert_eq!(hooks, [Hook::Tc], "pods always");
        }
    }
}
