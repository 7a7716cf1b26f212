// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Files that change, break, move and vanish.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;

use crate::{
    diagnostic::Reason,
    source::{FileSource, Loaded},
};

/// A directory that is removed with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sluice-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("written");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{}}\n")
}

fn names(loaded: &Loaded) -> Vec<&str> {
    let services = &loaded.resources.services;
    services.iter().map(|s| s.meta.id.name.as_str()).collect()
}

fn reasons(loaded: &Loaded) -> Vec<Reason> {
    loaded.diagnostics.iter().map(|d| d.reason).collect()
}

fn source(path: &Path) -> FileSource {
    FileSource::new(vec![path.to_owned()])
}

#[test]
fn directories_are_read_in_order_without_hidden_names() {
    let directory = Directory::new("order");
    for name in [
        "b.yaml",
        "a/z.yml",
        "c.json",
        "note.txt",
        ".hidden.yaml",
        ".d/x.yaml",
    ] {
        directory.write(name, &service(&name.replace(['/', '.'], "-")));
    }
    directory.write(
        "c.json",
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}, "spec": {}}"#,
    );
    let loaded = source(&directory.0).load();
    assert_eq!(names(&loaded), ["a-z-yml", "b-yaml", "c"]);
    assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
}

#[test]
fn a_broken_file_keeps_its_last_good_version() {
    let directory = Directory::new("broken");
    let path = directory.write("a.yaml", &service("a"));
    directory.write("b.yaml", &service("b"));
    let mut source = source(&directory.0);
    assert_eq!(names(&source.load()), ["a", "b"]);
    for broken in ["kind: [", "", "a: \"half"] {
        fs::write(&path, broken).expect("written");
        let loaded = source.load();
        assert_eq!(names(&loaded), ["a", "b"], "{broken:?}");
        assert_eq!(reasons(&loaded), [Reason::Syntax], "{broken:?}");
        assert!(loaded.diagnostics[0].message.contains("last good version"));
    }
    fs::write(&path, service("c")).expect("written");
    let loaded = source.load();
    assert_eq!(names(&loaded), ["c", "b"]);
    assert!(loaded.diagnostics.is_empty());
    fs::remove_file(&path).expect("removed");
    assert_eq!(names(&source.load()), ["b"]);
}

#[test]
fn an_object_of_the_wrong_type_keeps_its_last_good_version() {
    let directory = Directory::new("object");
    let text = |names: [&str; 3]| names.map(service).join("---\n");
    let path = directory.write("a.yaml", &text(["a", "b", "c"]));
    let mut source = source(&directory.0);
    assert_eq!(names(&source.load()), ["a", "b", "c"]);
    let broken = text(["d", "b", "e"]).replacen("spec: {}", "spec: no", 2);
    for _ in 0..2 {
        // d was never good; b was; e is.
        fs::write(&path, &broken).expect("written");
        let loaded = source.load();
        assert_eq!(names(&loaded), ["b", "e"]);
        assert_eq!(reasons(&loaded), [Reason::InvalidValue; 3]);
        fs::write(&path, format!("# again\n{broken}")).expect("written");
    }
    fs::write(&path, text(["d", "b", "e"])).expect("written");
    let loaded = source.load();
    assert_eq!(names(&loaded), ["d", "b", "e"]);
    assert!(loaded.diagnostics.is_empty());
}

#[test]
fn what_cannot_be_read_is_reported() {
    let directory = Directory::new("unreadable");
    directory.write("latin.yaml", "");
    fs::write(directory.0.join("latin.yaml"), b"a: b\nc: \xe9\n").expect("written");
    symlink(
        directory.0.join("nowhere"),
        directory.0.join("dangling.yaml"),
    )
    .expect("a link");
    let loaded = source(&directory.0).load();
    assert_eq!(reasons(&loaded), [Reason::Unreadable, Reason::Syntax]);
    assert_eq!(loaded.diagnostics[1].origin.line, 2);
    let loaded = source(&directory.0.join("nothing")).load();
    assert_eq!(reasons(&loaded), [Reason::Unreadable]);
}

#[test]
fn the_first_of_two_objects_of_one_name_is_kept() {
    let directory = Directory::new("twice");
    directory.write("a.yaml", &format!("{}---\n{}", service("a"), service("a")));
    let mut source = FileSource::new(vec![directory.0.clone(), directory.0.join("a.yaml")]);
    let loaded = source.load();
    assert_eq!(names(&loaded), ["a"]);
    assert_eq!(reasons(&loaded), [Reason::DuplicateObject]);
    assert_eq!(loaded.diagnostics[0].origin.line, 6);
}

/// Far more than a change takes: the figure itself is measured in the lab.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits for a change for at most `limit`.
async fn changes(source: &mut FileSource, limit: Duration) -> bool {
    tokio::time::timeout(limit, source.changed()).await.is_ok()
}

#[tokio::test]
async fn a_wait_that_is_dropped_over_and_over_still_notices() {
    let directory = Directory::new("dropped");
    let path = directory.write("a.yaml", &service("a"));
    let mut source = source(&directory.0);
    source.load();
    fs::write(&path, service("b")).expect("written");
    let start = Instant::now();
    while !changes(&mut source, Duration::from_millis(2)).await {
        assert!(start.elapsed() < Duration::from_secs(5), "never noticed");
    }
    assert_eq!(names(&source.load()), ["b"]);
}

#[tokio::test]
async fn every_way_of_changing_a_file_is_noticed() {
    let directory = Directory::new("watch");
    let path = directory.write("a.yaml", &service("a"));
    let mut source = source(&directory.0);
    source.load();
    let expectations: [(&str, Vec<&str>); 4] = [
        ("rewritten in place", vec!["b"]),
        ("replaced by rename", vec!["c"]),
        ("another in a new directory", vec!["c", "d"]),
        ("removed", vec!["d"]),
    ];
    for (what, expected) in expectations {
        match what {
            "rewritten in place" => fs::write(&path, service("b")).expect("written"),
            "replaced by rename" => {
                let new = directory.write(".new", &service("c"));
                fs::rename(new, &path).expect("renamed");
            }
            "removed" => fs::remove_file(&path).expect("removed"),
            _ => {
                directory.write("sub/d.yaml", &service("d"));
            }
        }
        assert!(changes(&mut source, LIMIT).await, "{what}");
        assert_eq!(names(&source.load()), expected, "{what}");
    }
    assert!(!changes(&mut source, Duration::from_millis(120)).await);
}

#[tokio::test]
async fn the_symlink_swap_of_a_mounted_configmap_is_seen() {
    let directory = Directory::new("swap");
    directory.write("..2024_1/file.yaml", &service("a"));
    directory.write("..2024_2/file.yaml", &service("b"));
    symlink("..2024_1", directory.0.join("..data")).expect("a link");
    symlink("..data/file.yaml", directory.0.join("file.yaml")).expect("a link");
    let mut source = source(&directory.0);
    assert_eq!(names(&source.load()), ["a"]);
    symlink("..2024_2", directory.0.join("..data_tmp")).expect("a link");
    fs::rename(directory.0.join("..data_tmp"), directory.0.join("..data")).expect("renamed");
    assert!(changes(&mut source, LIMIT).await);
    let loaded = source.load();
    assert_eq!(names(&loaded), ["b"]);
    assert!(loaded.diagnostics.is_empty());
}

#[tokio::test]
async fn a_change_is_noticed_after_the_wait_was_dropped() {
    let directory = Directory::new("cancel");
    let path = directory.write("a.yaml", &service("a"));
    let mut source = source(&directory.0);
    source.load();
    fs::write(&path, service("other")).expect("written");
    // Polled once: how long the machine takes until then does not matter.
    assert!(source.changed().now_or_never().is_none());
    assert!(changes(&mut source, LIMIT).await);
    assert_eq!(names(&source.load()), ["other"]);
}

#[tokio::test]
async fn files_that_gateways_name_are_read_and_watched() {
    let directory = Directory::new("named");
    directory.write("tls/cert.pem", "one");
    directory.write(
        "a.yaml",
        "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: ['*']
    tls: {mode: SIMPLE, serverCertificate: tls/cert.pem, privateKey: tls/key.pem}
",
    );
    let mut source = source(&directory.0);
    let files = source.load().resources.files;
    let contents = |name: &str| files[&directory.0.join(name)].clone();
    assert_eq!(&*contents("tls/cert.pem").expect("read").0, b"one");
    assert!(contents("tls/key.pem").is_err());
    directory.write("tls/key.pem", "two");
    assert!(changes(&mut source, LIMIT).await);
    let files = source.load().resources.files;
    assert!(files[&directory.0.join("tls/key.pem")].is_ok());
}

#[tokio::test]
async fn a_file_is_read_once_its_writer_has_finished() {
    let directory = Directory::new("half");
    directory.write("a.yaml", &service("one"));
    let mut source = source(&directory.0);
    source.load();
    // Longer than a file that is closed has to be quiet.
    let pause = Duration::from_millis(15);
    let path = directory.0.join("a.yaml");
    let writer = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut file = fs::File::create(path).expect("to open");
        for name in ["two", "three", "four"] {
            let document = format!("---\n{}", service(name));
            file.write_all(document.as_bytes()).expect("to write");
            std::thread::sleep(pause);
        }
    });
    assert!(changes(&mut source, Duration::from_secs(5)).await);
    let loaded = source.load();
    writer.join().expect("the writer");
    assert_eq!(names(&loaded), ["two", "three", "four"]);
}

#[tokio::test]
async fn a_log_beside_the_configuration_does_not_delay_a_change() {
    use std::io::Write as _;
    let directory = Directory::new("log");
    let path = directory.write("a.yaml", &service("a"));
    let mut log = fs::File::create(directory.0.join("agent.log")).expect("a log");
    let mut source = source(&directory.0);
    source.load();
    log.write_all(b"a line").expect("to write");
    fs::write(&path, service("other")).expect("written");
    assert!(changes(&mut source, LIMIT).await);
    assert!(!source.watch.is_being_written());
    assert_eq!(names(&source.load()), ["other"]);
}
