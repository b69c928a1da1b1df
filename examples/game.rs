//! A small game over UDP and WebSocket: players steer, the server moves them and broadcasts
//! their positions 20 times a second.
//!
//! ```text
//! cargo run --release --example game
//! nc -u 127.0.0.1 7030                       # or a WebSocket client, to ws://127.0.0.1:7030
//! join ada
//! steer 1 0
//! ```
//!
//! After `steer 1 0` you see lines such as `player 1 ada 501 500`: ada moves one step at a
//! time.
//!
//! Players over both transports meet in one world, because the handler does not depend on the
//! transport. A line for all players is encoded once. Each message is one text command:
//!
//! - A player sends `join NAME`, `steer DX DY` (each -1, 0 or 1) or `leave`.
//! - The server sends `welcome ID` after `join`, `player ID NAME X Y` when a player has joined
//!   or moved, and `gone ID`. A wrong command is answered with `error` and the reason.
//!
//! A player that sends nothing for ten seconds is removed.
//!
//! `game ADDRESS` uses another address. Ctrl-c ends it.

mod report;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use getty::{
    BoxError, CodecLayer, Group, Pipeline, Reply, Request, ServiceBuilder, Session, SessionLayer,
    SlowConsumer,
    codec::Lines,
    handle,
    layers::{HandleErrorLayer, IdleTimeoutLayer},
    net::{TcpListener, UdpAdmission, UdpListener, UdpOverflow, UdpPeer},
    ws::{Messages, WsLayer, WsTransport},
};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};

use self::report::Report;

/// Time between two moves.
const TICK: Duration = Duration::from_millis(50);
/// Maximum time between two messages of a player.
const PLAYER_TIMEOUT: Duration = Duration::from_secs(10);
/// Width and height of the world, in steps.
const SIZE: i32 = 1000;
/// Maximum message, in bytes. A datagram of this size crosses every network in one piece.
const MAX_MESSAGE: usize = 1200;
/// Maximum name of a player, in bytes.
const MAX_NAME: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Report> {
    let udp = UdpListener::builder()
        .with_max_datagram(MAX_MESSAGE)
        .with_max_peers(10_000)
        // Only the latest command to steer matters. When the queue is full, drop older ones.
        .with_queue(8, 8 * MAX_MESSAGE)
        .with_overflow(UdpOverflow::DropOldest)
        // An unknown peer gets no session unless its first datagram is a `join`.
        .with_admit(|first| {
            if first.payload.starts_with(b"join ") {
                UdpAdmission::Open
            } else {
                UdpAdmission::Ignore
            }
        })
        .bind(report::address("127.0.0.1:7030")?)
        .await?;
    let address = udp.local_addr()?;
    let tcp = TcpListener::bind(address).await?;
    println!("the game is on {address}, over UDP and WebSocket");

    let world = World::default();
    let ticks = tokio::spawn(world.clone().run());
    let app = app(world);
    let websocket = WsLayer::new()
        .with_messages(Messages::Text)
        .with_max_message(MAX_MESSAGE);
    let websocket_app = ServiceBuilder::new().layer(websocket).service(app.clone());
    getty::serve(udp, app)
        .and(getty::serve(tcp, websocket_app))
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    ticks.abort();
    Ok(())
}

/// Returns the stack. It is the same for both transports.
fn app(world: World) -> impl Pipeline<UdpPeer> + Pipeline<WsTransport<TcpStream>> + Clone {
    ServiceBuilder::new()
        .layer(CodecLayer::new(Lines::new().with_max_length(MAX_MESSAGE)))
        .layer(IdleTimeoutLayer::new(PLAYER_TIMEOUT))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|error: BoxError| {
            Some(format!("error {error}"))
        }))
        .service(handle(move |request: Request<String>| {
            world.handle(&request)
        }))
}

/// All players and their positions.
#[derive(Clone)]
struct World {
    players: Arc<Mutex<Players>>,
    /// The sessions of all players.
    sessions: Group<String>,
}

/// Players by the id of their session.
type Players = HashMap<u64, Player>;

struct Player {
    name: String,
    position: [i32; 2],
    steering: [i32; 2],
    /// `true` if the position must be sent at the next tick, even if it does not change.
    announce: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            players: Arc::default(),
            // A slow player may miss old positions, but will get the new ones.
            sessions: Group::builder()
                .with_policy(SlowConsumer::DropOldest)
                .build(),
        }
    }
}

impl World {
    fn players(&self) -> MutexGuard<'_, Players> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves all players at each tick. It never returns.
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
            for (coordinate, step) in player.position.iter_mut().zip(player.steering) {
                *coordinate = (*coordinate + step).clamp(0, SIZE - 1);
            }
            if std::mem::take(&mut player.announce) || player.position != before {
                let [x, y] = player.position;
                self.sessions
                    .broadcast(format!("player {id} {} {x} {y}", player.name));
            }
        }
    }

    /// Runs the command of a message.
    fn handle(&self, request: &Request<String>) -> Result<Reply<String>, BoxError> {
        let session = request.session();
        let words: Vec<_> = request.message().split_whitespace().collect();
        match words[..] {
            ["join", name] if name.len() <= MAX_NAME => self.join(session, name),
            ["steer", x, y] => {
                let steering = [step(x)?, step(y)?];
                let mut players = self.players();
                let player = players.get_mut(&session.id()).ok_or("join first")?;
                player.steering = steering;
                Ok(Reply::none())
            }
            ["leave"] => Ok(Reply::close()),
            _ => Err("the commands are: join NAME, steer DX DY, leave".into()),
        }
    }

    fn join(&self, session: &Session<String>, name: &str) -> Result<Reply<String>, BoxError> {
        let id = session.id();
        let mut players = self.players();
        if players.contains_key(&id) {
            return Err("you have already joined".into());
        }
        // The new player must see the position of every other player.
        players
            .values_mut()
            .for_each(|player| player.announce = true);
        let player = Player {
            name: name.to_owned(),
            position: [SIZE / 2; 2],
            steering: [0; 2],
            announce: true,
        };
        players.insert(id, player);
        drop(players);
        self.sessions.join(session);
        let world = self.clone();
        session.add_close_callback("game", "gone", move |_closed| world.remove(id));
        Ok(Reply::one(format!("welcome {id}")))
    }

    /// Removes a player whose session has closed, for any reason.
    fn remove(&self, id: u64) {
        self.players().remove(&id);
        self.sessions.broadcast(format!("gone {id}"));
    }
}

fn step(word: &str) -> Result<i32, BoxError> {
    match word.parse() {
        Ok(step @ -1..=1) => Ok(step),
        _ => Err("a step is -1, 0 or 1".into()),
    }
}
