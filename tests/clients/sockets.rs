//! Clients over TCP. A server may not respond to dials, and file descriptors may leak.

use std::{
    env,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use getty::{
    ServiceBuilder,
    client::{Backoff, Client, ClientSendError, ClientState, Ended, Failure, NoSession},
    net::{ConnectError, TcpConnector, TcpListener},
    serve,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    runtime::{Builder, Handle},
    time::{Instant, sleep},
};

use crate::{
    silent::silent,
    support::{echo, ignoring_client, ms, soon, without_jitter},
};

#[tokio::test(start_paused = true)]
async fn unresponsive_server_is_dialed_once_at_a_time_and_stop_is_immediate() {
    let (_listener, _waiting, address) = silent().await;
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dials);
    let connector = ServiceBuilder::new()
        .map_request(move |target: SocketAddr| {
            counted.fetch_add(1, SeqCst);
            target
        })
        .service(TcpConnector::new());
    let client = without_jitter()
        .with_sessions(4)
        .connect(connector, address, ignoring_client);
    // Each dial takes 3 s. The pauses are 0.3, 0.6 and 1.2 s.
    sleep(ms(13_000)).await;
    assert_eq!(dials.load(SeqCst), 4);
    assert!(matches!(client.state(), ClientState::Connecting));
    let start = Instant::now();
    client.stop();
    soon(client.stopped()).await;
    assert!(start.elapsed() <= ms(1), "stop does not wait for the dial");
}

#[tokio::test]
async fn unresolvable_name_is_retried_and_reported() {
    let client = Client::builder()
        .with_backoff(Backoff::new(ms(1), ms(1)))
        .with_max_attempts(3)
        .connect(TcpConnector::new(), "nobody.invalid:7000", ignoring_client);
    let Err(NoSession::Failed(Failure::Attempts { attempts: 3, last })) = client.session().await
    else {
        panic!("the name does not exist");
    };
    let Ended::Open(getty::OpenError::Connect(error)) = &*last else {
        panic!("{last}");
    };
    let error: &ConnectError = error.downcast_ref().unwrap();
    assert_eq!(error.target(), "\"nobody.invalid:7000\"");
}

const NAME: &str = "sockets::fifty_restarts_under_load_leak_nothing";
const CHILD: &str = "GETTY_TEST_RESTARTS_A_SERVER";
const WORKERS: usize = 2;

/// Runs in a separate process: other tests may open file descriptors too.
#[test]
#[cfg(target_os = "linux")]
fn fifty_restarts_under_load_leak_nothing() {
    if env::var_os(CHILD).is_some() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(restart_fifty_times());
    }
    let child = Command::new(env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits for at most a minute until `condition` returns `true`.
async fn until(description: &str, mut condition: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "not within a minute: {description}"
        );
        sleep(ms(1)).await;
    }
}

async fn restart_fifty_times() {
    const SESSIONS: usize = 4;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    // This socket reserves the port while no server runs.
    let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    reserved.set_reuse_address(true).unwrap();
    reserved.bind(&any.into()).unwrap();
    let address = reserved.local_addr().unwrap().as_socket().unwrap();
    let (descriptors_before, tasks_before) =
        (descriptors(), Handle::current().metrics().num_alive_tasks());

    let client = Client::builder()
        .with_sessions(SESSIONS)
        .with_backoff(Backoff::new(ms(2), ms(20)).with_reset_after(ms(1)))
        .with_resend(true)
        .connect(TcpConnector::new(), address, ignoring_client);
    let (done, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let (client, done, sent) = (client.clone(), Arc::clone(&done), Arc::clone(&sent));
            tokio::spawn(async move {
                while !done.load(SeqCst) {
                    match client.send("hello".to_owned()).await {
                        Ok(_) => drop(sent.fetch_add(1, SeqCst)),
                        Err(ClientSendError::Session(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();

    let mut ended = Vec::new();
    for _ in 0..50 {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = tokio::spawn(serve(listener, echo()).into_future());
        until("the pool is full", || client.sessions().len() == SESSIONS).await;
        ended.extend(client.sessions().iter().map(|one| one.handle().downgrade()));
        let before = sent.load(SeqCst);
        until("100 messages are sent", || sent.load(SeqCst) > before + 100).await;
        server.abort();
        let _ = server.await;
        until("the client notices the close", || !client.is_open()).await;
    }

    let listener = TcpListener::bind(address).await.unwrap();
    let server = tokio::spawn(serve(listener, echo()).into_future());
    done.store(true, SeqCst);
    for sender in senders {
        sender.await.unwrap();
    }
    client.stop();
    client.stopped().await;
    server.abort();
    let _ = server.await;
    until("tasks end", || {
        Handle::current().metrics().num_alive_tasks() == tasks_before
    })
    .await;
    until("descriptors are closed", || {
        descriptors() == descriptors_before
    })
    .await;
    // Each thread caches the session of its last request.
    until("sessions are freed", || {
        let kept = ended.iter().filter(|handle| handle.upgrade().is_some());
        kept.count() <= WORKERS
    })
    .await;
}
