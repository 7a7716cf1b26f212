// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs of others on our interfaces: found and named, never touched.

use std::{collections::BTreeSet, fmt, io};

use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use rtnetlink::{
    packet_core::NLM_F_DUMP,
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};

use crate::datapath::{interfaces::Interface, netlink::Netlink};

/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` (linux/pkt_sched.h): where filters of
/// ingress hang.
const INGRESS: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xfff2,
};

/// A program, or a filter without one, that somebody else has attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Where, and when its turn comes.
    pub place: Place,
    /// As its owner called it.
    pub name: String,
    /// The kernel's id; 0 of a filter without a program.
    pub id: u32,
}

/// Where a program of others sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// XDP: before everything at tc.
    Xdp,
    /// tcx, and its turn is before ours.
    TcxBefore,
    /// tcx, and its turn is after ours.
    TcxAfter,
    /// A filter of clsact: after all of tcx.
    Filter,
}

impl Foreign {
    /// What it is and how it is called.
    pub fn subject(&self) -> String {
        let kind = match self.place {
            Place::Xdp => "XDP program",
            Place::TcxBefore | Place::TcxAfter => "tcx program",
            Place::Filter => "tc filter",
        };
        match self.id {
            0 => format!("{kind} {}", self.name),
            id => format!("{kind} {} (id {id})", self.name),
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turn = match self.place {
            Place::Xdp => "sees packets first",
            Place::TcxBefore => "sees packets before ours",
            Place::TcxAfter | Place::Filter => "sees what ours passes on",
        };
        write!(f, "{} {turn}", self.subject())
    }
}

/// The XDP program of others on an interface; `ours` are the ids of our own.
pub fn xdp(interface: &Interface, ours: &BTreeSet<u32>) -> Option<Foreign> {
    let id = *interface.xdp.iter().find(|id| !ours.contains(id))?;
    Some(Foreign {
        place: Place::Xdp,
        name: name(id),
        id,
    })
}

/// Programs and filters of others at tc ingress. What cannot be read is left
/// out: this is for the operator to know, nothing depends on it.
pub fn tc(
    netlink: &mut Netlink,
    interface: &str,
    index: u32,
    ours: &BTreeSet<u32>,
) -> Vec<Foreign> {
    let mut found = Vec::new();
    let mut place = Place::TcxBefore;
    let (_, programs) =
        SchedClassifier::query_tcx(interface, TcAttachType::Ingress).unwrap_or_default();
    for program in programs {
        if ours.contains(&program.id()) {
            place = Place::TcxAfter;
            continue;
        }
        found.push(Foreign {
            place,
            name: program.name_as_str().unwrap_or("without a name").to_owned(),
            id: program.id(),
        });
    }
    // Before Linux 6.6 ours is a filter, too.
    let filters = filters(netlink, index).unwrap_or_default();
    found.extend(filters.into_iter().filter(|of| !ours.contains(&of.id)));
    found
}

/// The filters of clsact.
fn filters(netlink: &mut Netlink, index: u32) -> io::Result<Vec<Foreign>> {
    let mut request = TcMessage::default();
    request.header.index = index.cast_signed();
    request.header.parent = INGRESS;
    let answers = netlink.ask(RouteNetlinkMessage::GetTrafficFilter(request), NLM_F_DUMP)?;
    let mut found = Vec::new();
    for answer in answers {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else {
            continue;
        };
        let (mut kind, mut name, mut id) = (None, None, 0);
        let mut has_options = false;
        for attribute in filter.attributes {
            match attribute {
                TcAttribute::Kind(word) => kind = Some(word),
                TcAttribute::Options(options) => {
                    has_options = true;
                    for option in options {
                        match option {
                            TcOption::Bpf(TcFilterBpfOption::ProgName(word)) => name = Some(word),
                            TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => id = number,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // Each priority also has an entry of its own, without options.
        if has_options {
            found.push(Foreign {
                place: Place::Filter,
                name: name.or(kind).unwrap_or_default(),
                id,
            });
        }
    }
    Ok(found)
}

/// The name of a loaded program.
fn name(id: u32) -> String {
    loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| Some(program.name_as_str()?.to_owned()))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "without a name".to_owned())
}
