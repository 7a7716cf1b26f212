// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Servers behind the gateway: real brokers, real web servers, a TCP echo.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;

use crate::{netns::Netns, process::Process};

pub mod announced;
pub mod echo;
pub mod iperf;
pub mod kafka;
pub mod mosquitto;
pub mod nginx;
pub mod postgres;
pub mod tls_end;

/// Waits until something accepts on the address, or the program ends.
fn listening(process: &mut Process, netns: &Netns, target: SocketAddr) -> Result<()> {
    process.ready(&format!("accepts on {target}"), READY, |_| {
        netns.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)).is_ok())
    })
}

const READY: Duration = Duration::from_secs(10);
