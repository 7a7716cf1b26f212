// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The client against a server that answers, stalls, refuses and closes.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

mod connection;
mod load;

use load::{Load, Outcome};

#[test]
fn every_request_is_sent_and_answered() {
    let outcome = run(|_| Some(GOOD));
    assert_eq!((outcome.answered, outcome.errors), (200, 0));
    assert!(outcome.percentile(0.5) > Duration::ZERO);
    assert!(outcome.percentile(0.5) <= outcome.percentile(1.0));
}

#[test]
fn a_stall_is_charged_to_every_request_that_was_due_in_it() {
    // Half of the second, so half of the requests wait, and two fifths for
    // more than a tenth of a second. Counted from when they were sent, four
    // would be slow.
    let stall = Duration::from_millis(500);
    let outcome = run(|age| {
        thread::sleep(stall.saturating_sub(age));
        Some(GOOD)
    });
    assert_eq!((outcome.answered, outcome.errors), (200, 0));
    let slow = outcome.percentile(0.62);
    assert!(slow >= Duration::from_millis(50), "{slow:?}");
    let slowest = outcome.percentile(1.0);
    assert!(slowest >= Duration::from_millis(450), "{slowest:?}");
}

#[test]
fn answers_that_are_not_good_are_errors() {
    let outcome = run(|_| Some("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!((outcome.answered, outcome.errors), (0, 200));
}

#[test]
fn a_closed_connection_costs_its_request_and_is_replaced() {
    let middle = Duration::from_millis(400)..Duration::from_millis(500);
    let outcome = run(|age| (!middle.contains(&age)).then_some(GOOD));
    assert_eq!(outcome.answered + outcome.errors, 200);
    assert!((1..=100).contains(&outcome.errors), "{}", outcome.errors);
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// 200 requests in a second on 4 connections. `answer` is asked with the time
/// since the first one; nothing closes the connection.
fn run(answer: impl Fn(Duration) -> Option<&'static str> + Send + Sync) -> Outcome {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    let begin = Instant::now();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            let outcome = load(address).run();
            // Ends the server, which waits for a connection.
            over.store(true, Ordering::SeqCst);
            drop(TcpStream::connect(address));
            outcome.unwrap()
        });
        for socket in listener.incoming() {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let answer = answer.clone();
            scope.spawn(move || serve(&socket.unwrap(), |now| answer(now - begin)));
        }
        load.join().unwrap()
    })
}

fn serve(mut socket: &TcpStream, answer: impl Fn(Instant) -> Option<&'static str>) {
    let reader = BufReader::new(socket);
    for line in reader.lines() {
        let Ok(line) = line else { return };
        if line.is_empty() {
            let Some(answer) = answer(Instant::now()) else {
                return;
            };
            if socket.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn load(address: SocketAddr) -> Load {
    Load {
        address,
        host: "localhost".to_owned(),
        path: "/".to_owned(),
        rate: 200.0,
        length: Duration::from_secs(1),
        connections: 4,
        authority: None,
    }
}
