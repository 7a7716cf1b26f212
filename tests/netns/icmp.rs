// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a VIP says to echo requests, and what its services say through ICMP.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::FromRawFd,
    time::Duration,
};

use gateway_tests::gateway::Datapath;

use crate::{
    ipv6,
    scene::{self, backend, vip},
};

const DEADLINE: Duration = Duration::from_secs(5);

#[test]
fn echo_is_answered_for_a_vip() {
    let Some(lab) = scene::lab() else { return };
    ipv6::dual_stack(&lab);
    let yaml = scene::tcp("echo", 31_400, &[backend(&lab, 0, 7000)]);
    let _gateway = scene::serve(&lab, &[("echo.yaml", yaml)]);
    for (to, answer) in [(IpAddr::from(lab.vip()), 0), (ipv6::VIP.into(), 129)] {
        let got = lab.client.run(|| echo(to)).expect("an answer");
        // Type and code of an answer, then what was sent.
        assert_eq!((got[0], got[1], &got[4..]), (answer, 0, &ECHO[4..]), "{to}");
    }
}

/// An echo request, but for its type and checksum.
const ECHO: [u8; 16] = *b"\x00\x00\x00\x00\x12\x34\x00\x01question";

/// Sends an echo request and returns the ICMP message that comes back.
fn echo(to: IpAddr) -> io::Result<Vec<u8>> {
    let (family, protocol, kind) = match to {
        IpAddr::V4(_) => (libc::AF_INET, libc::IPPROTO_ICMP, 8),
        IpAddr::V6(_) => (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128),
    };
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has. The type is that of another
    // protocol; the calls used below are the same for all sockets of datagrams.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.connect(SocketAddr::new(to, 0))?;
    let mut request = ECHO;
    request[0] = kind;
    // For IPv6 the kernel does it.
    let mut sum: u32 = request
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    sum = (sum & 0xffff) + (sum >> 16);
    request[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    socket.send(&request)?;
    let mut buffer = [0; 256];
    loop {
        let len = socket.recv(&mut buffer)?;
        // Over IPv4 the header comes along.
        let message = match to {
            IpAddr::V4(_) => &buffer[usize::from(buffer[0] & 15) * 4..len],
            IpAddr::V6(_) => &buffer[..len],
        };
        if message.len() == request.len() && message[4..8] == request[4..8] {
            return Ok(message.to_vec());
        }
    }
}

/// The backend's "port unreachable" comes from the VIP, about a packet to it.
#[test]
fn a_refused_datagram_is_refused_to_the_client() {
    for mode in ["dnat", "snat"] {
        let Some(lab) = scene::lab() else { return };
        let yaml = scene::tcp("echo", 5000, &[backend(&lab, 0, 7000)])
            .replace("protocol: TCP", "protocol: UDP");
        let _gateway = scene::serve_with(
            &lab,
            Datapath::Ebpf,
            &format!("forwarding: {mode}\n"),
            &[("echo.yaml", yaml)],
        );
        let to = vip(&lab, 5000);
        let error = lab.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(to).expect("connect");
            socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
            socket.send(b"anybody?").expect("send");
            socket
                .recv(&mut [0; 16])
                .expect_err("nobody is there")
                .kind()
        });
        assert_eq!(error, ErrorKind::ConnectionRefused, "{mode}");
    }
}
