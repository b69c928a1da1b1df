//! TLS, users and permissions, as `docs/clusters.md` describes them, and several servers.

use std::{fs, path::Path, time::Duration};

use async_nats::ConnectOptions;
use getty_cluster::{
    Cluster, ClusterTopics, Previous,
    bus::{Bus, Nats, Redis},
    form::Plain,
};
use getty_core::{
    CloseReason, Connection, Session,
    driver::{self, Driver},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio::time::timeout;

use crate::server::{Kind, Server, free_port, until};

/// Longest time of a step.
const WAIT: Duration = Duration::from_secs(60);

/// Writes the certificates of an authority, a server and a client into a folder.
fn certificates(folder: &Path) {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    // Equal names would be a certificate that has signed itself.
    authority
        .distinguished_name
        .push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for (name, usage) in [
        ("server", ExtendedKeyUsagePurpose::ServerAuth),
        ("client", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

fn path(folder: &Path, file: &str) -> String {
    folder.join(file).to_str().unwrap().to_owned()
}

/// Session without a socket, which is open while the rest is kept.
fn session() -> (Session<String>, (Driver<String>, Connection<()>)) {
    let connection = Connection::new(());
    let (session, driver) = driver::pair(connection.handle().clone());
    (session, (driver, connection))
}

/// Uses all that a bus can do, between two nodes.
async fn works(one: impl Bus, two: impl Bus) {
    let nodes = [
        Cluster::of("game").over(one).start(),
        Cluster::of("game").over(two).start(),
    ];
    for node in &nodes {
        timeout(WAIT, node.up()).await.expect("the node is up");
        until(|| node.nodes().len() == 1).await;
    }
    uses(&nodes, 0).await;
    nodes[1].leave().await;
    until(|| nodes[0].nodes().is_empty()).await;
}

/// Sends a message, asks, closes and takes a session over.
async fn uses([one, two]: &[Cluster; 2], round: usize) {
    let name = |name| format!("{name} {round}");
    let rooms: [ClusterTopics<String, String>; 2] =
        [one, two].map(|node| node.topics(&name("rooms"), Plain));
    let ((here, _here), (there, of_there)) = (session(), session());
    rooms[0].join_as("tea".to_owned(), &here, "ada");
    rooms[1].join_as("tea".to_owned(), &there, "bob");
    assert!(rooms[0].subscribed("tea", WAIT).await);
    let received = two.snapshot().received;
    assert!(rooms[1].subscribed("tea", WAIT).await);
    rooms[0].broadcast("tea", "hello".to_owned()).unwrap();
    until(|| two.snapshot().received == received + 1).await;
    let answers = rooms[0].ask("tea", WAIT).await;
    assert_eq!((answers.members.len(), answers.missing.len()), (2, 0));

    let users = [one, two].map(|node| node.claims(&name("users")));
    users[0].take("ada", &here).await.unwrap();
    let claimed = users[1].take("ada", &there).await.unwrap();
    assert_eq!(claimed.previous, Previous::Closed);
    assert_eq!(here.reason(), Some(CloseReason::TakenOver));
    rooms[0].close("tea", CloseReason::Local);
    until(|| there.reason().is_some()).await;
    drop(of_there);
    // The entry is removed, too.
    let (last, _last) = session();
    let free = async {
        while users[0].take_free("ada", &last).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT, free).await.expect("the name is free");
}

/// A node with these credentials stays down.
async fn is_refused(bus: impl Bus) {
    let node = Cluster::of("game").over(bus).start();
    let up = timeout(Duration::from_secs(2), node.up()).await;
    assert!(up.is_err(), "the server has accepted it");
    assert_eq!(node.snapshot().disconnects, 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server"]
async fn redis_with_tls_certificates_and_a_limited_user() {
    let server = Server::with_arguments(Kind::Redis, |folder, port| {
        certificates(folder);
        // the user of the page
        let user = "user game on >p%20ss resetkeys ~getty.game.* resetchannels &getty.game.* -@all \
                    +hello +client +ping +publish +subscribe +unsubscribe +eval +hmget +hget +hset \
                    +pexpire +del\nuser default off\n";
        fs::write(folder.join("users.acl"), user).unwrap();
        let of = |file| path(folder, file);
        [
            ["--port", "0"].map(str::to_owned).to_vec(),
            vec!["--tls-port".to_owned(), port.to_string()],
            vec!["--tls-cert-file".to_owned(), of("server.pem")],
            vec!["--tls-key-file".to_owned(), of("server.key")],
            vec!["--tls-ca-cert-file".to_owned(), of("ca.pem")],
            vec!["--aclfile".to_owned(), of("users.acl")],
        ]
        .concat()
    });
    let read = |file: &str| fs::read(server.files().join(file)).unwrap();
    let bus = |user: &str| {
        let url = format!("rediss://{user}@localhost:{}", server.port());
        let bus = Redis::new(&url).unwrap();
        let bus = bus.with_root_certificate(read("ca.pem")).unwrap();
        bus.with_client_certificate(read("client.pem"), read("client.key"))
            .unwrap()
    };
    // In a URL the password `p%20ss` has its percent sign escaped.
    works(bus("game:p%2520ss"), bus("game:p%2520ss")).await;
    is_refused(bus("game:wrong")).await;
    is_refused(bus("")).await;
    // without a client's certificate, and without trust in the server's
    let url = format!("rediss://game:p%2520ss@localhost:{}", server.port());
    let no_client = Redis::new(&url).unwrap();
    is_refused(no_client.with_root_certificate(read("ca.pem")).unwrap()).await;
    is_refused(Redis::new(&url).unwrap()).await;
    let plain = Redis::new("redis://localhost").unwrap();
    assert!(plain.with_root_certificate(read("ca.pem")).is_err());
    let garbage = Redis::new(&url).unwrap().with_root_certificate("garbage");
    assert!(garbage.is_err());
}

/// The users of the page.
const NATS_USERS: &str = r#"
authorization {
  users = [{
    user: game, password: "p ss"
    permissions: {
      publish: ["getty.game.>", "$KV.game_claims.>", "$JS.API.STREAM.CREATE.KV_game_claims",
                "$JS.API.STREAM.MSG.GET.KV_game_claims"]
      subscribe: ["getty.game.>", "_INBOX.>"]
    }
  }]
}
"#;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server"]
async fn nats_with_tls_certificates_and_a_limited_user() {
    let server = Server::with_arguments(Kind::Nats, |folder, _| {
        certificates(folder);
        let of = |file| path(folder, file);
        let tls = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
            of("server.pem"),
            of("server.key"),
            of("ca.pem")
        );
        fs::write(folder.join("nats.conf"), tls + NATS_USERS).unwrap();
        vec!["--config".to_owned(), of("nats.conf")]
    });
    let file = |file: &str| server.files().join(file);
    let bus = |user: &str, has_certificate: bool| {
        let url = format!("tls://{user}@localhost:{}", server.port());
        let (root, certificate, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
        let options = move || {
            let options = ConnectOptions::new().add_root_certificates(root.clone());
            if has_certificate {
                options.add_client_certificate(certificate.clone(), key.clone())
            } else {
                options
            }
        };
        let bus = Nats::new(&url).unwrap().with_bucket("game_claims", 1);
        bus.with_options(options)
    };
    works(bus("game:p%20ss", true), bus("game:p%20ss", true)).await;
    is_refused(bus("game:wrong", true)).await;
    is_refused(bus("game:p%20ss", false)).await;
    let url = format!("tls://game:p%20ss@localhost:{}", server.port());
    is_refused(Nats::new(&url).unwrap()).await;
}

/// Three servers, of which one is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server"]
async fn long_nodes_go_on_at_another_server_of_nats() {
    let routes = [(); 3].map(|()| free_port());
    let all = routes.map(|port| format!("nats://127.0.0.1:{port}"));
    let mut servers = [0, 1, 2].map(|place| {
        Server::with_arguments(Kind::Nats, |_, _| {
            [
                "--cluster_name",
                "test",
                "--name",
                &format!("server-{place}"),
                "--cluster",
                &all[place],
                "--routes",
                &all.join(","),
            ]
            .map(str::to_owned)
            .to_vec()
        })
    });
    let url = |order: [usize; 3]| {
        let urls = order.map(|place| servers[place].url());
        urls.join(",")
    };
    let bus = |order| Nats::new(&url(order)).unwrap().with_bucket("claims", 3);
    let nodes = [bus([0, 1, 2]), bus([2, 0, 1])].map(|bus| Cluster::of("game").over(bus).start());
    for node in &nodes {
        timeout(WAIT, node.up()).await.expect("the node is up");
    }
    for place in 0..3 {
        for node in &nodes {
            until(|| node.nodes().len() == 1).await;
        }
        // The store may need some seconds until it has a leader.
        let store = async {
            let (session, _connection) = session();
            let users = nodes[0].claims(&format!("probe {place}"));
            while users.take_free("probe", &session).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(WAIT, store).await.expect("there is a store");
        uses(&nodes, place).await;
        if place < 2 {
            // One at a time, so that two are there to agree.
            servers[place].kill();
            tokio::time::sleep(Duration::from_secs(6)).await;
            for node in &nodes {
                timeout(WAIT, node.up()).await.expect("the node is up");
            }
            if place == 0 {
                servers[0].restart();
            }
        }
    }
}
