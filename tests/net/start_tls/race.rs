//! Pushes of other tasks that race an upgrade.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use getty::Session;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinSet, yield_now},
};

use super::{
    super::tls::kit::{Authority, settings, trusting},
    Client, Server, accept, line, secure, send,
};

const ROUNDS: usize = 1000;
const TASKS: usize = 3;
const PUSHES: usize = 8;

/// Lets several tasks push numbered lines, each after a different number of yields.
fn push(session: &Session<String>, round: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let session = session.clone();
        tasks.spawn(async move {
            for n in 0..PUSHES {
                for _ in 0..(round * (task + 3) + n) % 11 {
                    yield_now().await;
                }
                let text = format!("push {task} {n}");
                if (n + task) % 2 == 0 {
                    session.send(text).await.unwrap();
                } else {
                    session.feed(text).await.unwrap();
                }
            }
        });
    }
    tasks
}

/// Checks that the pushes of each task have come completely and in order.
#[derive(Default)]
struct Pushes([usize; TASKS]);

impl Pushes {
    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("push"), "{line}");
        let mut number = || words.next().unwrap().parse::<usize>().unwrap();
        let (task, n) = (number(), number());
        assert_eq!(self.0[task], n, "the pushes of a task are in order");
        self.0[task] += 1;
    }

    fn len(&self) -> usize {
        self.0.iter().sum()
    }

    /// Takes pushes until `marker`, and returns how many there were.
    async fn until(&mut self, io: &mut (impl AsyncRead + Unpin), marker: &str) -> usize {
        loop {
            let line = line(io).await;
            if line == marker {
                return self.len();
            }
            self.take(&line);
        }
    }

    /// Takes the rest of all pushes.
    async fn rest(&mut self, io: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
        while self.len() < TASKS * PUSHES {
            let line = line(io).await;
            self.take(&line);
        }
    }
}

// A byte that is not TLS between the marker and the end would fail the peer's handshake or its
// reads, because the peer reads exactly up to the marker.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plain_byte_of_a_server_follows_its_go_ahead_and_no_push_is_lost() {
    let authority = Arc::new(Authority::new());
    let mut server = Server::new(&authority);
    let config = trusting(&authority);
    let mixed = AtomicUsize::new(0);
    for round in 0..ROUNDS {
        let (mut io, session) = server.dial().await;
        let mut tasks = push(&session, round);
        for _ in 0..round % 13 {
            yield_now().await;
        }
        send(&mut io, "STARTTLS\n").await;
        let mut pushes = Pushes::default();
        let plain = pushes.until(&mut io, "220 ready").await;
        let mut io = secure(io, Arc::clone(&config)).await.unwrap();
        pushes.rest(&mut io).await;
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        mixed.fetch_add(usize::from(plain > 0 && plain < TASKS * PUSHES), SeqCst);
        session.close();
    }
    assert!(
        mixed.into_inner() > ROUNDS / 10,
        "the pushes do not race the upgrade"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plain_byte_of_a_client_follows_its_last_reply_and_no_push_is_lost() {
    let authority = Authority::new();
    let config = trusting(&authority);
    let server = settings(&authority).load().unwrap();
    let mut mixed = 0;
    for round in 0..ROUNDS {
        let mut client = Client::new(Arc::clone(&config), Some("going ahead")).await;
        let mut tasks = push(&client.session, round);
        for _ in 0..round % 13 {
            yield_now().await;
        }
        send(&mut client.peer, "220 ready\n").await;
        let mut pushes = Pushes::default();
        let plain = pushes.until(&mut client.peer, "going ahead").await;
        let mut io = accept(client.peer, server.clone()).await.unwrap();
        pushes.rest(&mut io).await;
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        assert!(client.session.upgraded().await);
        mixed += usize::from(plain > 0 && plain < TASKS * PUSHES);
    }
    assert!(mixed > ROUNDS / 10, "the pushes do not race the upgrade");
}
