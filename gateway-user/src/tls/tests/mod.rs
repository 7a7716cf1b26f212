// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Certificate choice and handshakes against a rustls client.

use std::{sync::Arc, time::Duration};

use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use crate::{
    model::TlsSettings,
    tls::{
        TlsError,
        handshake::{self, HandshakeError},
        server_config,
        tests::ca::Ca,
    },
};

pub(crate) mod ca;

const BOTH: TlsSettings = TlsSettings {
    certificates: Vec::new(),
    allow_tls12: true,
    allow_tls13: true,
};

const DEADLINE: Duration = Duration::from_secs(5);

type Client = tokio_rustls::client::TlsStream<tokio::io::DuplexStream>;

/// Both sides of a handshake over a pipe.
async fn connect(
    server: &Arc<rustls::ServerConfig>,
    client: &Arc<ClientConfig>,
    name: &str,
) -> (Result<(), HandshakeError>, std::io::Result<Client>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connector = TlsConnector::from(Arc::clone(client));
    let (accepted, connected) = tokio::join!(
        async {
            let mut accepted = handshake::accept(far, Arc::clone(server), DEADLINE).await?;
            // Sends the tickets too.
            tokio::io::AsyncWriteExt::write_all(&mut accepted, b"x").await?;
            tokio::io::AsyncWriteExt::shutdown(&mut accepted).await?;
            Ok(())
        },
        async {
            let mut stream = connector.connect(name, near).await?;
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut [0]).await?;
            Ok(stream)
        },
    );
    (accepted, connected)
}

fn shown(stream: &Client) -> &[u8] {
    let certificates = stream.get_ref().1.peer_certificates();
    certificates.expect("certificates")[0].as_ref()
}

#[tokio::test]
async fn the_certificate_that_names_the_server_best_is_shown() {
    let ca = Ca::new();
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let certs = [
        ca.issue(&["first.example", "*.example.com"], p256),
        ca.issue(&["a.example.com"], p256),
        ca.issue(&["*.B.example.com"], p256),
    ];
    let server = server_config(certs.to_vec(), &BOTH, &[]).expect("a configuration");
    let client = Arc::new(ca.client(rustls::ALL_VERSIONS));
    for (name, index) in [
        ("a.example.com", 1),
        ("A.Example.Com", 1),
        ("z.example.com", 0),
        ("x.b.example.com", 2),
        ("first.example", 0),
    ] {
        let (accepted, connected) = connect(&server, &client, name).await;
        accepted.expect("a handshake");
        let connected = connected.expect("a handshake");
        assert_eq!(shown(&connected), certs[index].cert[0].as_ref(), "{name}");
    }
    // Not covered by any: the first is shown and the client refuses it.
    let (accepted, connected) = connect(&server, &client, "a.b.c.example.com").await;
    assert!(accepted.is_err() && connected.is_err());
}

#[tokio::test]
async fn a_key_the_client_cannot_verify_is_passed_over() {
    let ca = Ca::new();
    let certs = [
        ca.issue(&["a.example.com"], &rcgen::PKCS_ED25519),
        ca.issue(&["a.example.com"], &rcgen::PKCS_ECDSA_P256_SHA256),
    ];
    let server = server_config(certs.to_vec(), &BOTH, &[]).expect("a configuration");
    let mut provider = aws_lc_rs::default_provider();
    let client = |provider| {
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .expect("versions")
            .with_root_certificates(ca.roots.clone())
            .with_no_client_auth();
        Arc::new(client)
    };
    let (_, connected) = connect(&server, &client(provider.clone()), "a.example.com").await;
    assert_eq!(
        shown(&connected.expect("a handshake")),
        certs[0].cert[0].as_ref()
    );
    let mapping = provider.signature_verification_algorithms.mapping;
    let without: Vec<_> = mapping
        .iter()
        .copied()
        .filter(|(scheme, _)| *scheme != rustls::SignatureScheme::ED25519)
        .collect();
    provider.signature_verification_algorithms.mapping = Vec::leak(without);
    let (_, connected) = connect(&server, &client(provider), "a.example.com").await;
    assert_eq!(
        shown(&connected.expect("a handshake")),
        certs[1].cert[0].as_ref()
    );
}

#[tokio::test]
async fn versions_and_alpn_are_as_configured() {
    let ca = Ca::new();
    let certs = vec![ca.issue(&["a.example.com"], &rcgen::PKCS_ECDSA_P256_SHA256)];
    let only12 = TlsSettings {
        allow_tls13: false,
        ..BOTH
    };
    let server = server_config(certs.clone(), &only12, &[]).expect("a configuration");
    let client = Arc::new(ca.client(&[&rustls::version::TLS13]));
    let (accepted, connected) = connect(&server, &client, "a.example.com").await;
    assert!(accepted.is_err() && connected.is_err());

    let http = server_config(certs.clone(), &BOTH, &[b"h2", b"http/1.1"]).expect("a configuration");
    let raw = server_config(certs.clone(), &BOTH, &[]).expect("a configuration");
    for (server, offered, chosen) in [
        (&http, vec!["http/1.1", "h2"], Some("h2")),
        (&http, vec!["http/1.1"], Some("http/1.1")),
        (&http, vec![], None),
        (&raw, vec!["mqtt"], None),
    ] {
        let mut client = ca.client(rustls::ALL_VERSIONS);
        client.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let (_, connected) = connect(server, &Arc::new(client), "a.example.com").await;
        let connected = connected.expect("a handshake");
        assert_eq!(
            connected.get_ref().1.alpn_protocol(),
            chosen.map(str::as_bytes),
            "{offered:?}"
        );
    }

    let neither = TlsSettings {
        allow_tls12: false,
        ..only12
    };
    assert!(matches!(
        server_config(certs, &neither, &[]),
        Err(TlsError::NoVersion)
    ));
    assert!(matches!(
        server_config(Vec::new(), &BOTH, &[]),
        Err(TlsError::NoCertificate)
    ));
}

#[tokio::test]
async fn sessions_outlive_a_configuration_change() {
    let ca = Ca::new();
    let certs = vec![ca.issue(&["a.example.com"], &rcgen::PKCS_ECDSA_P256_SHA256)];
    let client = Arc::new(ca.client(rustls::ALL_VERSIONS));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let server = server_config(certs.clone(), &BOTH, &[]).expect("a configuration");
        let (_, connected) = connect(&server, &client, "a.example.com").await;
        kinds.push(connected.expect("a handshake").get_ref().1.handshake_kind());
    }
    assert_eq!(kinds[1], Some(rustls::HandshakeKind::Resumed), "{kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stops_half_way_ends_at_the_deadline() {
    let ca = Ca::new();
    let certs = vec![ca.issue(&["a.example.com"], &rcgen::PKCS_ECDSA_P256_SHA256)];
    let server = server_config(certs, &BOTH, &[]).expect("a configuration");
    let (_near, far) = tokio::io::duplex(1024);
    let result = handshake::accept(far, server, DEADLINE).await;
    assert!(matches!(result, Err(HandshakeError::Timeout(DEADLINE))));
}
