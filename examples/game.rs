//! A small game whose server has the last word: players steer, the server moves them and says where everybody is, twenty
//! times a second.
//!
//! ```text
//! cargo run --release --example game
//! nc -u 127.0.0.1 7030                       # or a WebSocket client, to ws://127.0.0.1:7030
//! join ada
//! steer 1 0
//! ```
//!
//! The handler knows nothing of the transport: players over UDP and over WebSocket meet in one world, and each line for
//! all of them is encoded once. What a player says is text, one command a message: `join NAME`, `steer DX DY` with each of
//! -1, 0 and 1, and `leave`. What it is told is `welcome ID`, `player ID NAME X Y` for each that has moved or joined, and
//! `gone ID`. A player that says nothing for ten seconds is gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Group, Pipeline, Reply, Request, ServiceBuilder, Session, SessionLayer,
    SlowConsumer,
    codec::Lines,
    layers::{HandleErrorLayer, IdleTimeoutLayer},
    net::{Admit, Overflow, TcpListener, UdpListener, UdpPeer},
    ws::{Messages, WsLayer, WsTransport},
};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

const ADDRESS: &str = "127.0.0.1:7030";
const TICK: Duration = Duration::from_millis(50);
/// How long a player may say nothing.
const SILENCE: Duration = Duration::from_secs(10);
/// The field is so many steps wide and high.
const SIZE: i32 = 1000;
/// How long a message may be: what every network carries in one piece.
const LONGEST: usize = 1200;
/// How long a player's name may be.
const LONGEST_NAME: usize = 20;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let datagrams = UdpListener::builder()
        .with_max_datagram(LONGEST)
        .with_max_peers(10_000)
        // of a player's steering only the latest matters
        .with_queue(8, 8 * LONGEST)
        .with_overflow(Overflow::DropOldest)
        // a stranger costs nothing until it knows what to say
        .with_admit(|first| {
            if first.payload.starts_with(b"join ") {
                Admit::Open
            } else {
                Admit::Ignore
            }
        })
        .bind(ADDRESS)
        .await?;
    let streams = TcpListener::bind(ADDRESS).await?;
    println!("the game is on {ADDRESS}, over UDP and WebSocket");

    let world = World::default();
    let ticking = tokio::spawn(world.clone().run());
    let game = game(world);
    let upgrade = WsLayer::new()
        .with_messages(Messages::Text)
        .with_max_message(LONGEST);
    let web = ServiceBuilder::new().layer(upgrade).service(game.clone());
    getty::serve(datagrams, game)
        .and(getty::serve(streams, web))
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    ticking.abort();
    Ok(())
}

/// One stack for every transport.
fn game(world: World) -> impl Pipeline<UdpPeer> + Pipeline<WsTransport<TcpStream>> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new().with_max_length(LONGEST)))
        .layer(IdleTimeoutLayer::read(SILENCE))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|error: BoxError| {
            Some(format!("error {error}"))
        }))
        .service_fn(move |request: Request<String>| {
            let answer = world.obey(&request);
            async move { answer }
        })
}

/// Who plays, and where.
#[derive(Clone)]
struct World {
    players: Arc<Mutex<Players>>,
    /// The sessions of all players.
    everybody: Group<String>,
}

/// By the session's id.
type Players = HashMap<u64, Player>;

struct Player {
    name: String,
    position: [i32; 2],
    steering: [i32; 2],
    /// The others have not been told where it is.
    is_news: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            players: Arc::default(),
            // whoever is slow gets what is new, and does without what is old
            everybody: Group::new().with_policy(SlowConsumer::DropOldest),
        }
    }
}

impl World {
    fn players(&self) -> MutexGuard<'_, Players> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves everybody, for ever.
    async fn run(self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tick();
        }
    }

    fn tick(&self) {
        for (id, player) in self.players().iter_mut() {
            let before = player.position;
            for (place, step) in player.position.iter_mut().zip(player.steering) {
                *place = (*place + step).clamp(0, SIZE - 1);
            }
            if std::mem::take(&mut player.is_news) || player.position != before {
                let [x, y] = player.position;
                self.everybody
                    .broadcast(format!("player {id} {} {x} {y}", player.name));
            }
        }
    }

    fn obey(&self, request: &Request<String>) -> Result<Reply<String>, BoxError> {
        let session = request.session();
        let words: Vec<_> = request.message().split_whitespace().collect();
        match words[..] {
            ["join", name] if name.len() <= LONGEST_NAME => self.join(session, name),
            ["steer", x, y] => {
                let steering = [step(x)?, step(y)?];
                let mut players = self.players();
                let player = players.get_mut(&session.id()).ok_or("join first")?;
                player.steering = steering;
                Ok(Reply::none())
            }
            ["leave"] => Ok(Reply::close()),
            _ => Err("it is join NAME, steer DX DY, or leave".into()),
        }
    }

    fn join(&self, session: &Session<String>, name: &str) -> Result<Reply<String>, BoxError> {
        let id = session.id();
        let mut players = self.players();
        if players.contains_key(&id) {
            return Err("you play already".into());
        }
        // whoever is new is told where all are
        players
            .values_mut()
            .for_each(|player| player.is_news = true);
        let player = Player {
            name: name.to_owned(),
            position: [SIZE / 2; 2],
            steering: [0; 2],
            is_news: true,
        };
        players.insert(id, player);
        drop(players);
        self.everybody.join(session);
        let world = self.clone();
        session.add_close_callback("game", "gone", move |_closed| world.forget(id));
        Ok(Reply::one(format!("welcome {id}")))
    }

    /// However a player went: by its own wish, in silence, or with its connection.
    fn forget(&self, id: u64) {
        self.players().remove(&id);
        self.everybody.broadcast(format!("gone {id}"));
    }
}

fn step(word: &str) -> Result<i32, BoxError> {
    match word.parse() {
        Ok(step @ -1..=1) => Ok(step),
        _ => Err("a step is -1, 0 or 1".into()),
    }
}
