// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 OR MIT
//! Source ports for flows whose source is rewritten.
//!
//! A port is free for each backend and source address by itself: what must be
//! unique is the tuple of the reply. [`PortPlace`] says in which order ports are
//! looked at.
//!
//! The kernel counts the rounds (`bpf_loop`): a loop of this length written out
//! would be walked by the verifier round by round.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use gateway_common::{flow::FlowKey, limits::SNAT_PORT_TRIES, settings::Settings, snat::PortPlace};

use super::create::{Occupant, occupant};
use crate::maps::SETTINGS;

/// Goes on with the next round.
const CONTINUE: i64 = 0;
/// Ends the rounds.
const STOP: i64 = 1;

/// A search under way.
#[repr(C)]
pub struct Ports {
    /// The key whose destination port is looked for: on the stack of whoever
    /// searches.
    reply: *mut FlowKey,
    place: PortPlace,
    /// The last port seen whose flow has ended, network order.
    pub ended_be: u16,
    is_found: bool,
    _pad: [u8; 5],
}

impl Ports {
    /// A search for the destination port of `reply`, to a flow whose first
    /// packet was `original`.
    #[inline(always)]
    pub fn new(reply: &mut FlowKey, original: &FlowKey, settings: &Settings) -> Self {
        Self {
            reply,
            place: PortPlace::first(original, settings),
            ended_be: 0,
            is_found: false,
            _pad: [0; 5],
        }
    }

    /// Looks until the reply is one that no flow waits for; whether it is.
    #[inline(always)]
    pub fn find(&mut self) -> bool {
        let context: *mut Self = self;
        // SAFETY: the callback takes this context, which outlives the call.
        unsafe { bpf_loop(SNAT_PORT_TRIES, look as *mut c_void, context.cast(), 0) };
        self.is_found
    }
}

/// One round: looks at one port and moves on to the next.
///
/// # Safety
///
/// Called by the kernel, with the context that [`Ports::find`] has given it.
unsafe extern "C" fn look(_round: u64, context: *mut c_void) -> i64 {
    // SAFETY: `find` holds the search for as long as the rounds last, and the
    // search the key.
    let ports = unsafe { &mut *context.cast::<Ports>() };
    // SAFETY: as above.
    let reply = unsafe { &mut *ports.reply };
    let Some(settings) = SETTINGS.get(0) else {
        return STOP;
    };
    reply.dst_port_be = ports.place.port_be(settings);
    match occupant(reply) {
        None => {
            ports.is_found = true;
            return STOP;
        }
        Some(Occupant { is_over: true, .. }) => ports.ended_be = reply.dst_port_be,
        Some(_) => {}
    }
    ports.place = ports.place.next(settings);
    CONTINUE
}
