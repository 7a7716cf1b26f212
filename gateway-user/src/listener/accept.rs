// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Accepts from one socket until it is closed or the agent drains.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::spawn_local,
    time::sleep,
};

use crate::conn::{self, Worker};

/// Pause when the process or the machine has no room for another connection.
const BACK_OFF: Duration = Duration::from_millis(100);

/// One listening socket of one worker.
pub(super) struct Acceptor {
    socket: TcpListener,
    worker: Rc<Worker>,
    active: Arc<AtomicUsize>,
}

/// Counts an open connection.
struct Active(Arc<AtomicUsize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Acceptor {
    pub(super) fn new(
        socket: std::net::TcpListener,
        worker: &Rc<Worker>,
        active: &Arc<AtomicUsize>,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::from_std(socket)?,
            worker: Rc::clone(worker),
            active: Arc::clone(active),
        })
    }

    /// Runs until `closed` resolves or the drain begins, accepts what has
    /// completed by then, and closes the socket.
    pub(super) async fn run(self, mut closed: oneshot::Receiver<()>) {
        let mut drain = self.worker.drain().clone();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = &mut closed => break,
                () = drain.started() => break,
                accepted = self.socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => take(stream, peer, &self.worker, &self.active),
                Err(error) => failed(&error).await,
            }
        }
        let Self {
            socket,
            worker,
            active,
        } = self;
        // What the kernel has completed was promised to the client. Asked of
        // the socket itself, because the runtime may not have heard of it yet.
        let Ok(socket) = socket.into_std() else {
            return;
        };
        while let Ok((stream, peer)) = socket.accept() {
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                take(stream, peer, &worker, &active);
            }
        }
        // The kernel's map holds a second descriptor of a steered socket, which
        // would keep it listening.
        let _ = SockRef::from(&socket).shutdown(Shutdown::Both);
    }
}

fn take(stream: TcpStream, peer: SocketAddr, worker: &Rc<Worker>, active: &Arc<AtomicUsize>) {
    let peer = canonical(peer);
    let Ok(local) = stream.local_addr().map(canonical) else {
        // Gone already; there is nothing to say about it.
        return;
    };
    let others = active.fetch_add(1, Ordering::Relaxed);
    let active = Active(Arc::clone(active));
    let worker = Rc::clone(worker);
    if others >= worker.limits().max_connections {
        conn::refuse_over_limit(&stream, peer, local, worker);
        return;
    }
    spawn_local(async move {
        conn::serve(stream, peer, local, worker).await;
        drop(active);
    });
}

async fn failed(error: &io::Error) {
    match error.raw_os_error() {
        // accept(2): errors of the connection, not of the socket.
        Some(
            libc::ECONNABORTED
            | libc::EINTR
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP,
        ) => {}
        _ => {
            tracing::warn!(
                %error,
                "connections cannot be accepted; raise the limit of open files if it was reached"
            );
            sleep(BACK_OFF).await;
        }
    }
}

/// IPv4 clients of a dual-stack socket are IPv4 clients.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
