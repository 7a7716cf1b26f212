// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MQTT, Kafka, HTTPS and PostgreSQL by SNI, all at once and each on connections
//! that stay: `kill -9` of the agent, reloads and an upgrade, and no client sees
//! any of it.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use gateway_tests::{
    admin,
    backend::mosquitto,
    file_limit,
    gateway::{self, Datapath, Gateway},
    lab::Lab,
    netns,
    pki::Authority,
    revision, wait,
};
use serde_json::Value;

use crate::scene::{self, backend, passthrough, serve_with, tcp};

mod kafka;
mod mqtt;
mod postgres;
mod web;

const MQTT_NAME: &str = "mqtt.example.com";
const MQTT_SESSIONS: usize = 2_000;
const RELOADS: usize = 200;
const KILLS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(90);

/// Rounds of each protocol so far.
#[derive(Debug, Default)]
struct Progress {
    mqtt: AtomicU64,
    kafka: AtomicU64,
    web: AtomicU64,
    postgres: AtomicU64,
}

impl Progress {
    /// Waits until every protocol has gone on.
    fn moves(&self, when: &str) {
        let all = [&self.mqtt, &self.kafka, &self.web, &self.postgres];
        let steps = [200, 5, 2, 2];
        let before = all.map(|count| count.load(Ordering::Relaxed));
        wait::until_true(&format!("progress {when}"), DEADLINE, || {
            (0..4).all(|i| all[i].load(Ordering::Relaxed) >= before[i] + steps[i])
        })
        .unwrap_or_else(|error| panic!("{error:#}: {before:?}, now {self:?}"));
    }
}

/// Ends the load when dropped.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections to `port` of backend `index` that the kernel has.
fn taken(lab: &Lab, gateway: &Gateway<'_>, index: usize, port: u16) -> usize {
    let to = backend(lab, index, port);
    let path = format!("/flows?backend={to}&state=active&limit=1");
    let answer = admin::fetch(&lab.gateway, gateway.admin(), &path).expect("flows");
    let flows: Value = serde_json::from_str(&answer.body).expect("JSON");
    for flow in flows["flows"].as_array().expect("flows") {
        assert_eq!(flow["kind"], "handoff", "{flows}");
    }
    flows["summary"]["matching"].as_u64().expect("a count") as usize
}

/// Connections to `port` of backend `index` that the backend has.
fn established(lab: &Lab, index: usize, port: u16) -> usize {
    let mut ss = lab.backends[index].command("ss");
    ss.args(["-Htn", "state", "established", &format!("sport = :{port}")]);
    netns::run(&mut ss).expect("ss").lines().count()
}

/// Everything an operator does to a gateway, and what nobody wants to.
fn trouble(lab: &Lab, gateway: &mut Gateway<'_>, progress: &Progress) {
    let newer = lab.dir().join("sluice-newer");
    let older = gateway::binary().expect("the agent");
    revision::revise(&older, &newer).expect("make a newer version");
    let mut reloads = 0;
    for number in 0..KILLS {
        gateway.kill();
        progress.moves("without an agent");
        if number == KILLS / 2 {
            // A newer version comes up, and takes over what it finds.
            gateway.replace_binary(newer.clone());
        }
        gateway.start().expect("start again");
        while reloads < RELOADS * (number + 1) / KILLS {
            let target = backend(lab, 2, 7_000 + (reloads % 7) as u16);
            let other = tcp("other", 31_400 + (reloads % 3) as u16, &[target]);
            gateway.reload("other.yaml", &other).expect("reload");
            reloads += 1;
        }
        // And of the services themselves: an endpoint more or less.
        let more = [
            backend(lab, 0, mosquitto::TLS),
            backend(lab, 1, mosquitto::TLS),
        ];
        let yaml = mqtt_yaml(&more[..1 + (number + 1) % 2]);
        gateway.reload("mqtt.yaml", &yaml).expect("reload");
        if number == KILLS / 4 {
            // In good order.
            gateway.terminate(DEADLINE).expect("terminate");
            progress.moves("between two agents");
            gateway.start().expect("start again");
        }
        progress.moves("with the next agent");
    }
}

fn mqtt_yaml(targets: &[std::net::SocketAddr]) -> String {
    passthrough("mqtt", mqtt::PORT, MQTT_NAME, targets)
}

#[test]
fn real_protocols_outlive_kills_reloads_and_an_upgrade() {
    let Some(lab) = scene::lab() else { return };
    file_limit::raise().expect("files");
    let authority = Authority::new(lab.dir()).expect("CA");
    let leaf = authority.issue(&[MQTT_NAME]).expect("certificate");
    let mosquitto = mosquitto::start(&lab, 0, Some(&leaf)).expect("mosquitto");
    let broker = kafka::Broker::start(&lab, &authority).expect("Kafka");
    let web = web::Server::start(&lab, &authority).expect("nginx");
    let database = postgres::Server::start(&lab, &authority).expect("PostgreSQL");
    let by_name =
        |name, port, host, index| passthrough(name, port, host, &[backend(&lab, index, port)]);
    let mut gateway = serve_with(
        &lab,
        Datapath::Ebpf,
        "handoff: {mode: auto, after_bytes: 1024}\n",
        &[
            ("mqtt.yaml", mqtt_yaml(&[backend(&lab, 0, mosquitto::TLS)])),
            (
                "kafka.yaml",
                by_name("kafka", kafka::PORT, kafka::NAME, kafka::BACKEND),
            ),
            (
                "web.yaml",
                by_name("web", web::PORT, web::NAME, web::BACKEND),
            ),
            (
                "db.yaml",
                by_name("db", postgres::PORT, postgres::NAME, postgres::BACKEND),
            ),
        ],
    );

    let mut start = Instant::now();
    let mut lap = |what: &str| {
        println!("{what}: {:.1} s", start.elapsed().as_secs_f64());
        start = Instant::now();
    };
    let mut kafka_clients = broker.clients(&lab, &authority).expect("kcat");
    let mut web_clients = web.clients(&lab, &authority).expect("curl and openssl");
    let mut transactions = database.clients(&lab, &authority).expect("psql");
    let sessions =
        mqtt::open(&lab, MQTT_NAME, &authority.certificate(), MQTT_SESSIONS).expect("MQTT");
    lap("connections opened");

    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    let kafka_input = kafka_clients.input.take().expect("the producer's input");
    let web_inputs = std::mem::take(&mut web_clients.inputs);
    let inputs = std::mem::take(&mut transactions.inputs);
    let ends = [
        (0, mosquitto::TLS),
        (kafka::BACKEND, kafka::PORT),
        (web::BACKEND, web::PORT),
        (postgres::BACKEND, postgres::PORT),
    ];
    let counts = || {
        [
            mosquitto::sessions(&mosquitto),
            broker.accepted(),
            database.accepted(),
        ]
    };
    let (messages, produced, pages, steps) = thread::scope(|scope| {
        let (stop, progress) = (&stop, &progress);
        let mqtt = scope.spawn(|| mqtt::publish(sessions, stop, &progress.mqtt));
        let kafka = scope.spawn(|| kafka::produce(kafka_input, stop, &progress.kafka));
        let pages = scope.spawn(|| web::browse(web_inputs, stop, &progress.web));
        let work = scope.spawn(|| postgres::work(inputs, stop, &progress.postgres));
        // Also when something below panics: the scope waits for its threads.
        let finish = Finish(stop);
        // Those that are still relayed end with the agent.
        wait::until("everything is handed off", DEADLINE, || {
            let now = ends.map(|(index, port)| taken(&lab, &gateway, index, port));
            let wanted = ends.map(|(index, port)| established(&lab, index, port));
            anyhow::ensure!(now == wanted, "{now:?} of {wanted:?}");
            assert_eq!((wanted[0], wanted[2]), (MQTT_SESSIONS, web::CONNECTIONS));
            assert!(wanted[1] > 0 && wanted[3] > 0, "{wanted:?}");
            println!("handed off: MQTT, Kafka, HTTPS, PostgreSQL {now:?}");
            Ok(Some(()))
        })
        .expect("handed off");
        let before = counts();
        assert_eq!(before[0], MQTT_SESSIONS);
        lap("all handed off");
        trouble(&lab, &mut gateway, progress);
        lap("trouble");
        assert_eq!(counts(), before, "somebody connected again");
        web.end().expect("the end of the web");
        drop(finish);
        (
            mqtt.join().expect("MQTT").expect("every session lives"),
            kafka.join().expect("Kafka").expect("the producer lives"),
            pages.join().expect("HTTPS").expect("openssl lives"),
            work.join().expect("PostgreSQL").expect("psql lives"),
        )
    });
    kafka_clients.finish(&lab, produced).expect("Kafka");
    let bodies = web.finish(&lab, web_clients, pages).expect("HTTPS");
    database
        .finish(&lab, transactions, steps)
        .expect("PostgreSQL");
    lap("end");
    println!(
        "{messages} MQTT messages, {produced} of Kafka, {bodies} bodies and {pages} pages, \
         transactions of {steps} steps, through {KILLS} kills and {RELOADS} reloads"
    );
}
