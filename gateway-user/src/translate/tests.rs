// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What golden cases cannot show: a certificate that is replaced step by step.

use std::{path::PathBuf, sync::Arc};

use crate::{
    diagnostic::{Diagnostic, Reason},
    model::{ListenerKind, Model},
    resource::{FileContents, ResourceSet},
    source::decode::decode,
    translate::{Options, translate},
};

const GATEWAY: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a}
spec:
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example]
    tls: {mode: SIMPLE, serverCertificate: a.crt, privateKey: a.key}
";

/// A certificate for a.example and its key, as PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn serve(
    certificate: Option<&str>,
    key: Option<&str>,
    previous: &Model,
) -> (Model, Vec<Diagnostic>) {
    let mut resources = ResourceSet::default();
    let decoded = decode(&Arc::from("dir/a.yaml"), GATEWAY).expect("YAML");
    decoded
        .resources
        .into_iter()
        .for_each(|resource| resources.push(resource));
    for (name, text) in [("dir/a.crt", certificate), ("dir/a.key", key)] {
        let contents = text
            .map(|text| FileContents(text.as_bytes().into()))
            .ok_or_else(|| "gone".to_owned());
        resources.files.insert(PathBuf::from(name), contents);
    }
    let options = Options {
        last_good: previous.certificates.clone(),
        ..Options::default()
    };
    translate(&resources, &options)
}

fn chains(model: &Model) -> usize {
    match &model.listeners[0].kind {
        ListenerKind::Tls(chains) => chains.len(),
        _ => 0,
    }
}

#[test]
fn the_last_good_pair_stays_while_its_files_change() {
    let (old_certificate, old_key) = pair();
    let (new_certificate, new_key) = pair();
    let (served, _) = serve(Some(&old_certificate), Some(&old_key), &Model::default());
    assert_eq!(chains(&served), 1);
    let old = served
        .certificates
        .values()
        .next()
        .expect("one")
        .chain
        .clone();
    let steps: [(Option<&str>, Option<&str>, Reason); 3] = [
        (
            Some(&new_certificate),
            Some(&old_key),
            Reason::InvalidCertificate,
        ),
        (Some("half"), Some(&old_key), Reason::InvalidCertificate),
        (None, Some(&old_key), Reason::MissingCertificate),
    ];
    for (certificate, key, reason) in steps {
        let (model, found) = serve(certificate, key, &served);
        assert_eq!(chains(&model), 1);
        assert_eq!(model.certificates.values().next().expect("one").chain, old);
        let errors: Vec<Reason> = found
            .iter()
            .map(|d| d.reason)
            .filter(|r| *r == reason)
            .collect();
        assert_eq!(errors, [reason], "{found:?}");
        let (model, _) = serve(certificate, key, &Model::default());
        assert_eq!(chains(&model), 0);
    }
    let (model, _) = serve(Some(&new_certificate), Some(&new_key), &served);
    assert_ne!(model.certificates.values().next().expect("one").chain, old);
}
