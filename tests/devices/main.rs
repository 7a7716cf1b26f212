// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whole connections over devices that not every kernel has: VLANs and tunnels. They
//! run in the virtual machine of `cargo xtask verify`, whose kernel has the modules.

#[allow(dead_code, reason = "what netns needs besides")]
#[path = "../netns/ipv6.rs"]
mod ipv6;
#[allow(dead_code, reason = "what netns needs besides")]
#[path = "../netns/modes.rs"]
mod modes;
#[allow(dead_code, reason = "what netns needs besides")]
#[path = "../netns/scene.rs"]
mod scene;
mod tunnel;
mod vlan;
