// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tc program without tcx: a filter at an interface's clsact qdisc, on
//! kernels before Linux 6.6.
//!
//! There is no link to pin, and no need for one: the filter stays when the agent
//! goes, and ends with its interface. For the next agent and for `sluice detach`
//! a pin of the program, among those of links, says by its name where a filter
//! is. As with links, replacing the program is atomic: the kernel exchanges the
//! two in one step (`cls_bpf_change` in net/sched/cls_bpf.c). What tcx adds and
//! this has not: other software that removes the qdisc removes the filter.

use std::{fs, io, mem, path::Path};

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use crate::datapath::error::Cause;

/// Among the filters of the interface: behind the first ones, which the node's
/// own software takes, before those that leave the choice to the kernel (49152).
const PRIORITY: u16 = 50;
/// Ours at that priority.
const HANDLE: TcHandle = TcHandle::new(0, 0x51ce);

/// Makes `program` the filter of `interface`, in place of an earlier one, and
/// pins it at `pin`.
///
/// # Errors
/// When the kernel refuses; an earlier filter then still works.
pub fn attach(program: &mut SchedClassifier, interface: &str, pin: &Path) -> Result<(), Cause> {
    match tc::qdisc_add_clsact(interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        added => added?,
    }
    // Before the filter, so that no filter is without.
    if !pin.exists() {
        program.pin(pin)?;
    }
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: PRIORITY,
        handle: HANDLE,
        classid: None,
    });
    let id = match program.attach_with_options(interface, TcAttachType::Ingress, options) {
        Err(ProgramError::TcError(TcError::NetlinkError(error)))
            if error.raw_os_error() == Some(libc::EEXIST) =>
        {
            program.attach_to_link(ours(interface)?)?
        }
        attached => attached?,
    };
    // Dropped, it would take the filter with it.
    mem::forget(program.take_link(id)?);
    // The pin of an earlier program would keep that in memory.
    fs::remove_file(pin)?;
    program.pin(pin)?;
    Ok(())
}

/// Removes the filter of `interface`, and the pin that says it is there; none
/// there is fine. The qdisc stays: others may use it.
///
/// # Errors
/// When it is there and stays.
pub fn end(interface: &str, pin: &Path) -> io::Result<()> {
    if !pin.exists() {
        return Ok(());
    }
    match ours(interface).map(aya::programs::links::Link::detach) {
        // The interface is gone.
        Err(error) if is_gone(error.raw_os_error()) => {}
        Err(error) => return Err(error),
        Ok(Err(ProgramError::NetlinkError(error))) if is_gone(error.raw_os_error()) => {}
        Ok(Err(error)) => return Err(io::Error::other(error)),
        Ok(Ok(())) => {}
    }
    fs::remove_file(pin)
}

fn ours(interface: &str) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
}

/// No such interface; no such filter; no qdisc that could have one.
fn is_gone(error: Option<i32>) -> bool {
    matches!(
        error,
        Some(libc::ENODEV | libc::ENXIO | libc::ENOENT | libc::EINVAL)
    )
}
