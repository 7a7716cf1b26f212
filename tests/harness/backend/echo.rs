// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A TCP server that greets with its name, then sends back what it gets.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};

use crate::{lab::Lab, netns::Netns};

/// A running echo server; it stops accepting when dropped.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    listener: TcpListener,
}

impl Echo {
    /// Starts an echo server on `port` of backend `index`. A non-empty
    /// `greeting` is sent first.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn start(lab: &Lab, index: usize, port: u16, greeting: &str) -> Result<Self> {
        let address = SocketAddr::from((lab.backend_address(index), port));
        Self::serve(&lab.backends[index], address, greeting)
    }

    /// Starts an echo server anywhere.
    ///
    /// # Errors
    ///
    /// When the port is taken.
    pub fn serve(netns: &Netns, address: SocketAddr, greeting: &str) -> Result<Self> {
        let listener = netns
            .run(|| TcpListener::bind(address))
            .with_context(|| format!("listen on {address}"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (accepting, stopped) = (listener.try_clone()?, Arc::clone(&stop));
        let greeting = greeting.to_owned();
        thread::spawn(move || {
            for stream in accepting.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let greeting = greeting.clone();
                thread::spawn(move || echo(stream, &greeting));
            }
        });
        Ok(Self {
            address,
            stop,
            listener,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        self.stop.store(true, Ordering::Relaxed);
        // SAFETY: the descriptor is open for as long as `self.listener`; the
        // call wakes the thread that accepts on its copy.
        unsafe {
            libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR);
        }
    }
}

/// Greets, and returns what comes until its end.
pub(super) fn echo(mut stream: TcpStream, greeting: &str) {
    let mut buffer = [0; 16 * 1024];
    if stream.write_all(greeting.as_bytes()).is_err() {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    // Failing means that the client is gone already.
    let _ = stream.shutdown(Shutdown::Write);
}
