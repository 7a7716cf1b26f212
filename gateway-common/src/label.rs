// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a handed-off connection was called: what of it the kernel does not need
//! and an operator asks for. Kept beside the flows, so that it outlives the
//! agent that knew it; programs never look.
//!
//! Texts are UTF-8, followed by zeros.

/// [`Label::mode`]: passed through by its server name.
pub const MODE_PASSTHROUGH: u32 = 1;
/// A port that is forwarded, relayed by the agent.
pub const MODE_FORWARD: u32 = 2;

/// In a slot: a label that is not known. No entry has this id.
pub const NO_LABEL: u32 = 0;

/// One label. Connections that are alike share it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// `MODE_*`.
    pub mode: u32,
    /// Server name of the ClientHello; empty for none.
    pub sni: [u8; 256],
    /// First protocol that the client offered; empty for none.
    pub alpn: [u8; 32],
    /// `file:line` of the rule; a long one has lost its beginning.
    pub rule: [u8; 256],
    /// Name of the cluster.
    pub cluster: [u8; 256],
}

const _: () = assert!(size_of::<Label>() == 804 && align_of::<Label>() == 4);
