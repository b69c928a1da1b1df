//! Objects of one session.

use std::{cell::Cell, time::Duration};

use getty::{
    BoxError, Session, SessionLayer,
    handler::{handle_mut, make_service},
    service_fn,
    tower::{ServiceBuilder, timeout::TimeoutLayer},
};
use tokio::sync::Notify;

use crate::support::{Server, lines, talk};

/// Not `Sync`, because no other session sees it.
struct Player {
    session: Session<String>,
    position: Cell<i64>,
}

impl Player {
    fn new(session: Session<String>) -> Self {
        Self {
            session,
            position: Cell::new(0),
        }
    }

    fn step(&mut self, line: String) -> Result<String, BoxError> {
        let by: i64 = line.parse()?;
        self.position.set(self.position.get() + by);
        Ok(format!(
            "{} {}",
            self.session.transport(),
            self.position.get()
        ))
    }

    async fn step_later(&mut self, line: String) -> Result<Vec<String>, BoxError> {
        let before = self.position.get();
        tokio::task::yield_now().await;
        self.step(line)?;
        Ok(vec![format!("{before} to {}", self.position.get())])
    }
}

#[tokio::test]
async fn each_session_has_an_object_whose_method_is_called() {
    let make = make_service(|session| handle_mut(Player::new(session), Player::step));
    let server = Server::start(lines!(SessionLayer::per_session(), make)).await;
    let (mut first, mut second) = (server.dial().await, server.dial().await);
    assert_eq!(first.ask("1").await.unwrap(), "tcp 1");
    assert_eq!(second.ask("-1").await.unwrap(), "tcp -1");
    assert_eq!(first.ask("1").await.unwrap(), "tcp 2");
    assert_eq!(first.ask("x").await, None);
}

#[tokio::test]
async fn method_may_be_async_and_messages_are_handled_in_order() {
    let make = make_service(|session| handle_mut(Player::new(session), Player::step_later));
    let layer = SessionLayer::per_session().with_in_flight(8);
    let heard = talk(lines!(layer, make), &["1", "2", "3"]).await;
    assert_eq!(heard, ["0 to 1", "1 to 3", "3 to 6"]);
}

#[tokio::test]
async fn method_may_be_a_closure_and_the_object_may_be_loaded() {
    let make = service_fn(async |session: Session<String>| {
        tokio::task::yield_now().await;
        let method = |player: &mut Player, line: String| player.step(line);
        Ok::<_, BoxError>(handle_mut(Player::new(session), method))
    });
    let heard = talk(lines!(SessionLayer::per_session(), make), &["5"]).await;
    assert_eq!(heard, ["tcp 5"]);
}

#[tokio::test(start_paused = true)]
async fn object_outlives_a_method_that_is_cancelled() {
    struct Slow {
        calls: u32,
        never: Notify,
    }
    impl Slow {
        async fn call(&mut self, line: String) -> String {
            self.calls += 1;
            if line == "wait" {
                self.never.notified().await;
            }
            self.calls.to_string()
        }
    }
    let make = make_service(|_session: Session<String>| {
        let slow = Slow {
            calls: 0,
            never: Notify::new(),
        };
        ServiceBuilder::new()
            .layer(getty::layers::HandleErrorLayer::new(|_| {
                "timeout".to_owned()
            }))
            .layer(TimeoutLayer::new(Duration::from_secs(1)))
            .service(handle_mut(slow, Slow::call))
    });
    let heard = talk(
        lines!(SessionLayer::per_session(), make),
        &["a", "wait", "b"],
    )
    .await;
    assert_eq!(heard, ["1", "timeout", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_handled_in_their_order_even_in_separate_tasks() {
    async fn take(numbers: &mut Vec<u32>, line: String) -> Result<String, BoxError> {
        numbers.push(line.parse()?);
        tokio::task::yield_now().await;
        Ok(numbers.is_sorted().to_string())
    }
    let make = make_service(|_session: Session<String>| {
        ServiceBuilder::new()
            .layer(getty::layers::SpawnLayer::new(64))
            .service(handle_mut(Vec::new(), take))
    });
    let layer = SessionLayer::per_session().with_in_flight(64);
    let lines: Vec<_> = (0..2_000).map(|number| number.to_string()).collect();
    let lines: Vec<_> = lines.iter().map(String::as_str).collect();
    let heard = talk(lines!(layer, make), &lines).await;
    let wrong = heard.iter().filter(|sorted| *sorted != "true").count();
    assert_eq!((heard.len(), wrong), (2_000, 0));
}
