// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What went over a namespace's links, for when a test fails: the heads of the
//! last packets, as they came in and as they left, in a file for Wireshark.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// Bytes kept of a packet: all headers, and where its data begins.
const HEAD: usize = 128;
/// Packets kept.
const LAST: usize = 400_000;

/// A running capture. Dropped by a panic, it leaves the file and says where.
#[derive(Debug)]
pub struct Capture {
    name: String,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Ring>>,
}

/// The last packets.
type Ring = VecDeque<Packet>;

#[derive(Debug)]
struct Packet {
    at: Duration,
    length: u32,
    head: Box<[u8]>,
}

impl Capture {
    /// Begins to listen on every link of `netns` but its loopback. `name` is that
    /// of the file.
    ///
    /// # Errors
    ///
    /// Without CAP_NET_RAW.
    pub fn start(netns: &Netns, name: &str) -> Result<Self> {
        let socket = netns.run(open).context("open a packet socket")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = thread::spawn(move || read(&socket, &stopped));
        Ok(Self {
            name: name.to_owned(),
            stop,
            reader: Some(reader),
        })
    }

    fn finish(&mut self) -> Option<Ring> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.take()?.join().ok()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let Some(packets) = self.finish() else { return };
        if !thread::panicking() {
            return;
        }
        match write(&self.name, &packets) {
            Ok(file) => eprintln!("the last {} packets: {}", packets.len(), file.display()),
            Err(error) => eprintln!("no capture: {error:#}"),
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let every = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: socket has no preconditions.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, every) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is a new descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // What waits is counted with all of its bytes, most of which are the sender's.
    let buffer: libc::c_int = 256 << 20;
    // So long without a packet is a look at the flag.
    let patience = libc::timeval {
        tv_sec: 0,
        tv_usec: 100_000,
    };
    set(&socket, libc::SO_RCVBUFFORCE, &buffer)?;
    set(&socket, libc::SO_RCVTIMEO, &patience)?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the socket is open; pointer and length are those of a live value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn read(socket: &OwnedFd, stop: &AtomicBool) -> Ring {
    let mut ring = Ring::new();
    let mut buffer = [0_u8; HEAD];
    loop {
        // SAFETY: all-zero is a valid address.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut from_length = size_of_val(&from) as libc::socklen_t;
        // SAFETY: buffer and address are live and as long as said; the socket is
        // open.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
                (&raw mut from).cast(),
                &raw mut from_length,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            // Nothing waits.
            if stop.load(Ordering::Relaxed) {
                return ring;
            }
            continue;
        };
        // Loopback sees every packet twice.
        if from.sll_hatype == libc::ARPHRD_LOOPBACK {
            continue;
        }
        if ring.len() == LAST {
            ring.pop_front();
        }
        ring.push_back(Packet {
            at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            length: length as u32,
            head: buffer[..length.min(HEAD)].into(),
        });
    }
}

/// In the format of libpcap (draft-ietf-opsawg-pcap), Ethernet.
fn write(name: &str, packets: &Ring) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let target = own.ancestors().nth(3).context("no target directory")?;
    let dir = target.join("captures");
    fs::create_dir_all(&dir)?;
    let file = dir.join(format!("{name}-{}.pcap", std::process::id()));
    let mut out = BufWriter::new(File::create(&file)?);
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, HEAD as u32, 1] {
        out.write_all(&word.to_le_bytes())?;
    }
    for Packet { at, length, head } in packets {
        let words = [
            at.as_secs() as u32,
            at.subsec_micros(),
            head.len() as u32,
            *length,
        ];
        for word in words {
            out.write_all(&word.to_le_bytes())?;
        }
        out.write_all(head)?;
    }
    out.flush()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Packet, Ring, write};

    #[test]
    fn a_file_has_a_header_and_every_packet() {
        let packet = Packet {
            at: std::time::Duration::from_micros(3_000_002),
            length: 1_500,
            head: [7; 60].into(),
        };
        let file = write("unit", &Ring::from([packet])).expect("write");
        let bytes = fs::read(&file).expect("read");
        fs::remove_file(file).expect("remove");
        assert_eq!(bytes.len(), 24 + 16 + 60);
        assert_eq!(bytes[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(
            bytes[24..40],
            [3, 0, 0, 0, 2, 0, 0, 0, 60, 0, 0, 0, 220, 5, 0, 0]
        );
        assert_eq!(bytes[40..], [7; 60]);
    }
}
