// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No action of the operator drops an established forwarded connection.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use gateway_tests::{
    backend::{iperf, mosquitto},
    client::{
        iperf as stream,
        mqtt::{self, Broker, Subscriber},
    },
    wait,
};

use crate::scene::{self, backend, serve, tcp};

#[test]
fn a_crash_a_restart_and_100_reloads_lose_no_forwarded_connection() {
    let Some(lab) = scene::lab() else { return };
    let _mosquitto = mosquitto::start(&lab, 0, None).expect("mosquitto");
    let mut server = iperf::start(&lab, 1, iperf::PORT).expect("iperf3");
    let mqtt_yaml = tcp("mqtt", 1883, &[backend(&lab, 0, mosquitto::PLAIN)]);
    let iperf_yaml = tcp("iperf", 5201, &[backend(&lab, 1, iperf::PORT)]);
    let mut gateway = serve(
        &lab,
        &[("mqtt.yaml", mqtt_yaml), ("iperf.yaml", iperf_yaml)],
    );
    let host = lab.vip().to_string();
    let broker = Broker {
        host: &host,
        port: 1883,
        authority: None,
    };
    let mut subscriber = Subscriber::start(&lab, &broker, "sub", "t").expect("subscribe");
    let published = AtomicBool::new(false);
    let rate = thread::scope(|scope| {
        let bulk = scope.spawn(|| stream::rate(&lab.client, lab.vip(), 5201, 20));
        wait::until_true("the stream runs", Duration::from_secs(5), || {
            server.log().contains("Accepted connection")
        })
        .expect("iperf3 starts");
        // Also when something below panics: the scope waits for its threads.
        let finish = Finish(&published);
        let publisher = scope.spawn(|| {
            let mut sent = 0_usize;
            while !published.load(Ordering::Relaxed) {
                // New connections need the agent's view of the backends, not the
                // agent: they work while it is dead.
                mqtt::publish(&lab, &broker, "t", &sent.to_string()).expect("publish");
                sent += 1;
            }
            sent
        });

        gateway.kill();
        let before = server.log().len();
        wait::until_true(
            "the stream goes on without the agent",
            Duration::from_secs(3),
            || server.log().len() > before,
        )
        .expect("bytes flow");
        gateway.start().expect("restart");
        for number in 0..100 {
            let target = backend(&lab, 2, 7000 + number % 7);
            let yaml = tcp("other", 31_400 + number % 3, &[target]);
            gateway.reload("other.yaml", &yaml).expect("reload");
        }
        drop(finish);
        let sent = publisher.join().expect("publisher");
        let messages = subscriber.wait_for(sent).expect("every message arrives");
        let expected: Vec<_> = (0..sent).map(|number| number.to_string()).collect();
        assert_eq!(messages, expected);
        assert!(subscriber.is_unbroken(), "the session connected again");
        println!("{sent} messages while crashing, restarting and reloading 100 times");
        bulk.join()
            .expect("iperf3 thread")
            .expect("iperf3 ends well")
    });
    println!("iperf3 through it all: {:.1} Gbit/s", rate / 1e9);
    assert!(rate > 0.0);
    assert!(server.exit_status().is_none());
}

/// Ends the publisher when dropped.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
