use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use getty::{
    Address, Listener, TransportKind,
    net::{UnixConnector, UnixListener},
};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_test::{assert_pending, task};
use tower::ServiceExt;

use super::{accept, exchange, report};

fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    (directory, path)
}

fn named(path: &Path) -> Address {
    Address::Unix(Some(path.into()))
}

/// Creates the file that a killed listener leaves.
fn leave_stale(path: &Path) {
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert!(path.exists());
}

/// Returns a listener with a full backlog and the sockets that fill it.
fn full(path: &Path) -> (std::os::unix::net::UnixListener, Vec<Socket>) {
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let address = SockAddr::unix(path).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        if socket.connect(&address).is_err() {
            return (listener.into(), waiting);
        }
        waiting.push(socket);
    }
}

#[tokio::test]
async fn unix_connection_carries_bytes_and_its_paths() {
    let (_directory, path) = directory();
    let mut listener = UnixListener::bind(&path).unwrap();
    assert_eq!(listener.local_addr().unwrap(), named(&path));

    let mut dialed = UnixConnector::new().connect(&path).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    for handle in [dialed.handle(), accepted.handle()] {
        assert_eq!(handle.transport(), TransportKind::Unix);
    }
    assert_eq!(dialed.handle().peer_addr(), &named(&path));
    assert_eq!(dialed.handle().local_addr(), &Address::Unix(None));
    assert_eq!(accepted.handle().local_addr(), &named(&path));
    assert_eq!(accepted.handle().peer_addr(), &Address::Unix(None));
    exchange(&mut dialed, &mut accepted).await.unwrap();
}

#[tokio::test]
async fn listeners_of_tokio_and_the_standard_library_remove_no_file() {
    let (_directory, path) = directory();
    let mut listener = tokio::net::UnixListener::bind(&path).unwrap();
    assert_eq!(Listener::local_addr(&listener).unwrap(), named(&path));
    let mut dialed = UnixConnector::new().connect(&path).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    assert_eq!(accepted.handle().local_addr(), &named(&path));
    exchange(&mut dialed, &mut accepted).await.unwrap();

    let mut listener = UnixListener::from(listener);
    let _dialed = UnixConnector::new().connect(&path).await.unwrap();
    let accepted = accept(&mut listener).await;
    assert_eq!(accepted.handle().local_addr(), &named(&path));
    drop(listener);
    assert!(path.exists());

    fs::remove_file(&path).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut listener = UnixListener::try_from(listener).unwrap();
    let _dialed = UnixConnector::new().connect(&path).await.unwrap();
    accept(&mut listener).await;
}

#[tokio::test]
async fn unix_connector_accepts_paths_of_many_types() {
    let (_directory, path) = directory();
    let _listener = UnixListener::bind(&path).unwrap();
    let connector = UnixConnector::new();
    let text = path.to_str().unwrap();
    connector.clone().oneshot(path.clone()).await.unwrap();
    connector.clone().oneshot(path.as_path()).await.unwrap();
    connector.clone().oneshot(text).await.unwrap();
    connector.clone().oneshot(text.to_owned()).await.unwrap();
}

#[tokio::test]
async fn stale_socket_file_is_replaced() {
    let (_directory, path) = directory();
    leave_stale(&path);
    let error = UnixConnector::new().connect(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let mut listener = UnixListener::bind(&path).unwrap();
    let mut dialed = UnixConnector::new().connect(&path).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    exchange(&mut dialed, &mut accepted).await.unwrap();
}

#[tokio::test]
async fn socket_of_a_live_listener_is_kept() {
    let (_directory, path) = directory();
    let mut listener = UnixListener::bind(&path).unwrap();
    let error = UnixListener::bind(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(
        report(&error),
        format!(
            "cannot listen on {}\na process listens there\n",
            path.display()
        )
    );

    // Accept the dial of the check first.
    accept(&mut listener).await;
    let mut dialed = UnixConnector::new().connect(&path).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    exchange(&mut dialed, &mut accepted).await.unwrap();
}

#[tokio::test]
async fn listener_with_a_full_backlog_is_not_stale() {
    let (_directory, path) = directory();
    let (_listener, _waiting) = full(&path);
    let error = UnixListener::bind(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(path.exists());
}

#[tokio::test]
async fn socket_of_another_kind_is_kept() {
    let (_directory, path) = directory();
    let datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let error = UnixListener::bind(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert!(report(&error).contains("cannot determine whether a process listens there"));
    datagrams.send_to(b"still there", &path).unwrap();
}

#[tokio::test]
async fn file_that_is_not_a_socket_is_kept() {
    let (directory, path) = directory();
    fs::write(&path, "precious").unwrap();
    let error = UnixListener::bind(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(report(&error).starts_with(&format!("cannot listen on {}\n", path.display())));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let link = directory.path().join("link");
    let target = directory.path().join("target");
    leave_stale(&target);
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let error = UnixListener::bind(&link).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(link.is_symlink() && target.exists());
}

#[tokio::test]
async fn listener_removes_its_file_even_if_it_was_modified() {
    let (_directory, path) = directory();
    let listener = UnixListener::bind(&path).unwrap();
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(&path, permissions).unwrap();
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn listener_keeps_the_file_of_another() {
    let (_directory, path) = directory();
    let first = UnixListener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = UnixListener::bind(&path).unwrap();
    let number = fs::metadata(&path).unwrap().ino();
    drop(first);
    assert_eq!(fs::metadata(&path).unwrap().ino(), number);
    drop(second);
    assert!(!path.exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn socket_without_a_file_serves() {
    let name = format!("\0getty-test-{}", std::process::id());
    let mut listener = UnixListener::bind(&name).unwrap();
    assert_eq!(listener.local_addr().unwrap(), Address::Unix(None));
    let mut dialed = UnixConnector::new().connect(&name).await.unwrap();
    let mut accepted = accept(&mut listener).await;
    exchange(&mut dialed, &mut accepted).await.unwrap();

    let error = UnixListener::bind(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[tokio::test]
async fn dial_of_a_path_without_a_socket_fails_and_names_it() {
    let (_directory, path) = directory();
    let error = UnixConnector::new().connect(&path).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.target(), path.to_str().unwrap());
}

#[tokio::test(start_paused = true)]
async fn dial_waits_for_room_in_the_unix_backlog() {
    let (_directory, path) = directory();
    let (listener, waiting) = full(&path);
    let connector = UnixConnector::new();
    let mut dial = task::spawn(connector.connect(&path));
    assert_pending!(dial.poll());
    for _ in &waiting {
        listener.accept().unwrap();
    }
    let dialed = dial.await.unwrap();
    assert_eq!(dialed.handle().peer_addr(), &named(&path));
}

#[tokio::test(start_paused = true)]
async fn dial_without_room_in_the_unix_backlog_ends_at_the_connect_timeout() {
    let (_directory, path) = directory();
    let (_listener, _waiting) = full(&path);
    for (connector, limit) in [
        (UnixConnector::new(), Duration::from_secs(3)),
        (
            UnixConnector::new().with_connect_timeout(Duration::from_secs(20)),
            Duration::from_secs(20),
        ),
    ] {
        let started = Instant::now();
        let error = connector.connect(&path).await.unwrap_err();
        assert!(error.is_timeout(), "{}", report(&error));
        assert_eq!(started.elapsed(), limit);
    }
}
