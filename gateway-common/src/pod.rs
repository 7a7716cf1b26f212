// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `aya::Pod` for the shared types.
//!
//! SAFETY of every impl here: the type is `#[repr(C)]`, made of integers and
//! arrays of integers only, and its fields fill its whole size (asserted where
//! it is defined), so any bytes are a value and every value is its bytes.

use aya::Pod;

use crate::{
    addr::Addr16,
    backend::Backend,
    counters::{Answers, Count, InterfaceDrops, Stats},
    flow::{FlowDirection, FlowKey, FlowRef, FlowSlot},
    fragment::{FragmentKey, FragmentValue},
    label::Label,
    limit::SourceId,
    next_hop::NextHop,
    port_range::{PortRange, PortRanges, PortRangesKey},
    service::{RingChunk, ServiceKey, ServiceValue},
    settings::Settings,
    source::SourceKey,
    source_flows::SourceBucket,
    steer::{SteerKey, SteerValue},
    tcp_splice::WalkOrder,
    watch::{Decision, Watch, WatchState},
};

// SAFETY: see the module's documentation.
unsafe impl Pod for Addr16 {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Backend {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Answers {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Count {}
// SAFETY: see the module's documentation.
unsafe impl Pod for InterfaceDrops {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Stats {}
// SAFETY: see the module's documentation.
unsafe impl Pod for FlowKey {}
// SAFETY: see the module's documentation.
unsafe impl Pod for FlowRef {}
// SAFETY: see the module's documentation.
unsafe impl Pod for FlowDirection {}
// SAFETY: see the module's documentation.
unsafe impl Pod for FlowSlot {}
// SAFETY: see the module's documentation.
unsafe impl Pod for FragmentKey {}
// SAFETY: see the module's documentation.
unsafe impl Pod for FragmentValue {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Label {}
// SAFETY: see the module's documentation.
unsafe impl Pod for NextHop {}
// SAFETY: see the module's documentation.
unsafe impl Pod for PortRangesKey {}
// SAFETY: see the module's documentation.
unsafe impl Pod for PortRange {}
// SAFETY: see the module's documentation.
unsafe impl Pod for PortRanges {}
// SAFETY: see the module's documentation.
unsafe impl Pod for ServiceKey {}
// SAFETY: see the module's documentation.
unsafe impl Pod for ServiceValue {}
// SAFETY: see the module's documentation.
unsafe impl Pod for RingChunk {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Settings {}
// SAFETY: see the module's documentation.
unsafe impl Pod for SourceId {}
// SAFETY: see the module's documentation.
unsafe impl Pod for SourceKey {}
// SAFETY: see the module's documentation.
unsafe impl Pod for SourceBucket {}
// SAFETY: see the module's documentation.
unsafe impl Pod for SteerKey {}
// SAFETY: see the module's documentation.
unsafe impl Pod for SteerValue {}
// SAFETY: see the module's documentation.
unsafe impl Pod for WalkOrder {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Watch {}
// SAFETY: see the module's documentation.
unsafe impl Pod for WatchState {}
// SAFETY: see the module's documentation.
unsafe impl Pod for Decision {}
