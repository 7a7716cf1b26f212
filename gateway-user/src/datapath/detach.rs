// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Takes everything out of the kernel: links, programs, maps, pins, claimed
//! addresses. Needs no running agent, and may be run again.

use std::fs;

use crate::datapath::{
    DatapathConfig, DatapathError, Detached,
    bpffs::{self, Pins},
    exclusive, interfaces, neighbours,
    netlink::Netlink,
    pins, return_route, vips,
};

/// Removes what any agent left in this network namespace and under
/// `config.bpffs`, of any layout. Flows in the kernel end. Mounted file systems
/// and kernel settings stay as they are.
///
/// # Errors
/// [`DatapathError::InUse`] while an agent runs; else the first thing that
/// cannot be removed.
pub async fn detach(config: &DatapathConfig) -> Result<Detached, DatapathError> {
    let pins = Pins::new(&config.bpffs);
    let _namespace = exclusive::namespace()?;
    let _pins = exclusive::pins(pins.root())?;
    let mut detached = Detached::default();
    let layouts = pins.layouts()?;
    for layout in &layouts {
        exclusive::removable(&layout.join("links"))?;
    }
    for layout in layouts {
        let links = layout.join("links");
        for name in bpffs::read(&links)? {
            let pin = links.join(&name);
            pins::end(&pin).map_err(DatapathError::file("remove the link", pin))?;
            detached.links.push(name.to_string_lossy().into_owned());
        }
        let maps = layout.join("maps");
        for name in bpffs::read(&maps)? {
            let pin = maps.join(&name);
            fs::remove_file(&pin).map_err(DatapathError::file("remove the map", pin))?;
            detached.maps.push(name.to_string_lossy().into_owned());
        }
        for directory in [links, maps, layout] {
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DatapathError::file("remove the directory", directory)(
                        error,
                    ));
                }
                _ => {}
            }
        }
    }
    let failed = |operation: &str| {
        let operation = operation.to_owned();
        move |cause| DatapathError::Netlink { operation, cause }
    };
    let mut netlink = Netlink::open().map_err(failed("open a netlink socket"))?;
    let interfaces = interfaces::interfaces(&mut netlink).map_err(failed("list interfaces"))?;
    return_route::release(&mut netlink)?;
    neighbours::release(&mut netlink).map_err(failed("give the neighbour entries back"))?;
    if let Some(loopback) = interfaces.values().find(|interface| interface.loopback) {
        detached.vips = vips::release(&mut netlink, loopback.index)?;
    }
    // The directory itself, unless it is where the file system is mounted.
    let _ = fs::remove_dir(&config.bpffs);
    Ok(detached)
}
