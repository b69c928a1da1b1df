//! A game server with binary messages: an opcode selects the handler.
//!
//! ```text
//! cargo run --features game_server --example game_server
//! printf '\0\0\0\6\1\4\3ada\0\0\0\4\2\2\1\377' | nc -N 127.0.0.1 7040 | xxd -p
//! ```
//!
//! The client enters as `ada` and moves by 1 and -1. You see the opcodes `03` and `04`, and in
//! the second message the name `616461` with the position `02` `01`, which is 1 and -1:
//!
//! ```text
//! 00000003030101000000080406036164610201
//! ```
//!
//! A message is a length of four bytes, then an opcode, the length of the payload, and the
//! payload. These three are in postcard, where a small number is one byte. An error is the
//! opcode 0 with a text.

#![expect(
    clippy::needless_pass_by_value,
    reason = "a handler owns its arguments"
)]

use std::sync::{Arc, Mutex};

use getty::{
    BoxError, CodecLayer, Group, NoReply, Rejection, ServiceBuilder, Session, SessionLayer, State,
    codec::{self, LengthDelimited},
    handler::{Keyed, Payload, Postcard, Router},
    layers::HandleErrorLayer,
    net::TcpListener,
};
use serde::{Deserialize, Serialize};

const ERROR: u16 = 0;
const ENTER: u16 = 1;
const STEP: u16 = 2;
const WELCOME: u16 = 3;
const AT: u16 = 4;

/// A message in either direction. Its handler decodes the payload.
#[derive(Clone, Serialize, Deserialize)]
struct Message {
    opcode: u16,
    payload: Vec<u8>,
}

impl Keyed for Message {
    type Key = u16;

    fn key(&self) -> &u16 {
        &self.opcode
    }
}

impl Payload for Message {
    fn payload(&self) -> &[u8] {
        &self.payload
    }
}

fn message(opcode: u16, content: &impl Serialize) -> Message {
    let payload = postcard::to_allocvec(content).expect("numbers and text");
    Message { opcode, payload }
}

type Client = Session<Message>;
type World = Group<Message>;

/// A player who has entered the world.
#[derive(Clone)]
struct Player {
    name: String,
    position: Arc<Mutex<(i32, i32)>>,
    world: World,
}

fn enter(Postcard(name): Postcard<String>, client: Client, State(world): State<World>) -> Message {
    world.join(&client);
    let position = Arc::default();
    client.insert(Player {
        name,
        position,
        world,
    });
    message(WELCOME, &client.id())
}

fn step(Postcard((dx, dy)): Postcard<(i8, i8)>, State(player): State<Player>) -> NoReply {
    let mut position = player.position.lock().unwrap();
    *position = (position.0 + i32::from(dx), position.1 + i32::from(dy));
    let at = message(AT, &(&player.name, *position));
    player.world.broadcast(at);
    NoReply
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // these handlers take the player, so they are not called before `enter`
    let players = Router::<Message, Message, _>::with_state_of(|session| {
        let player = session.get::<Player>();
        player.ok_or_else(|| Rejection::reply(message(ERROR, &"enter first")))
    });
    let router = Router::<Message, Message, _>::with_state(World::new())
        .route(ENTER, enter)
        .merge(players.route(STEP, step));
    let codec = codec::Postcard::new(LengthDelimited::new());
    let error = |error: BoxError| Some(message(ERROR, &error.to_string()));
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(codec))
        .layer(SessionLayer::new())
        // a malformed payload, or an opcode without a route
        .layer(HandleErrorLayer::new(error))
        .service(router);

    let listener = TcpListener::bind("127.0.0.1:7040").await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}
