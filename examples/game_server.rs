//! A game server with binary messages: an opcode selects the handler.
//!
//! ```text
//! cargo run --features game_server --example game_server
//! printf '\0\0\0\6\0\1\3ada\0\0\0\4\0\2\1\377' | nc -N 127.0.0.1 7040 | xxd -p
//! ```
//!
//! The client enters as `ada` and moves by 1 and -1. You see the opcodes `0003` and `0004`, and
//! in the second message the name `616461` with the position `02` `01`, which is 1 and -1:
//!
//! ```text
//! 00000003000301000000080004036164610201
//! ```
//!
//! A message is a length of four bytes, an opcode of two bytes and a payload in postcard, where
//! a small number is one byte. An error is the opcode 0 with a text.
//!
//! `game_server ADDRESS` listens on another address. Ctrl-c ends it.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a handler owns its arguments"
)]

mod report;

use std::sync::{Arc, Mutex};

use getty::{
    BoxError, CodecLayer, Group, NoReply, ServiceBuilder, Session, SessionLayer, State,
    codec::{LengthDelimited, Packets},
    handler::{Packet, Postcard, Router},
    layers::HandleErrorLayer,
    net::TcpListener,
};

use self::report::Report;

const ERROR: u16 = 0;
const ENTER: u16 = 1;
const STEP: u16 = 2;
const WELCOME: u16 = 3;
const AT: u16 = 4;

/// All players receive the name, so it is short. A frame has room for it and for the position.
const MAX_NAME: usize = 32;

/// A player who has entered the world.
#[derive(Clone)]
struct Player {
    name: String,
    position: Arc<Mutex<(i32, i32)>>,
    world: Group<Packet>,
}

fn enter(
    Postcard(name): Postcard<String>,
    client: Session<Packet>,
    State(world): State<Group<Packet>>,
) -> Result<Packet, BoxError> {
    if name.len() > MAX_NAME {
        return Err("the name is too long".into());
    }
    world.join(&client);
    let position = Arc::default();
    client.insert(Player {
        name,
        position,
        world,
    });
    Ok(Packet::new(WELCOME, Postcard(client.id())))
}

fn step(Postcard((dx, dy)): Postcard<(i8, i8)>, State(player): State<Player>) -> NoReply {
    let mut position = player.position.lock().unwrap();
    *position = (position.0 + i32::from(dx), position.1 + i32::from(dy));
    let at = Packet::new(AT, Postcard((&player.name, *position)));
    player.world.broadcast(at);
    NoReply
}

#[tokio::main]
async fn main() -> Result<(), Report> {
    // these handlers take the player, so they are not called before `enter`
    let players = Router::<Packet, Packet, _>::with_state_of(|session| {
        Ok(session.get::<Player>().ok_or("enter first")?)
    });
    let router = Router::<Packet, Packet, _>::with_state(Group::new())
        .route(ENTER, enter)
        .merge(players.route(STEP, step));
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Packets::new(LengthDelimited::new())))
        .layer(SessionLayer::new())
        // a handler's error, a malformed payload, or an opcode without a route
        .layer(HandleErrorLayer::new(|error: BoxError| {
            Packet::new(ERROR, Postcard(error.to_string()))
        }))
        .service(router);

    let listener = TcpListener::bind(report::address("127.0.0.1:7040")?).await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}
