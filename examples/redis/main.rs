//! A small Redis-compatible server: keys, counters, and channels with subscribers.
//!
//! ```text
//! cargo run --release --example redis
//! redis-cli -p 6380 SET name ada                           # OK
//! redis-cli -p 6380 GET name                               # "ada"
//! redis-cli -p 6380 SUBSCRIBE news                         # and then, in another terminal:
//! redis-cli -p 6380 PUBLISH news hello                     # (integer) 1
//! redis-benchmark -p 6380 -t ping,set,get,incr -P 16 -q    # requests per second
//! ```
//!
//! This file has the parts that concern sessions: the stack, the routes, and the commands for
//! subscribers. `resp.rs` is the codec. `store.rs` runs the other commands: PING, ECHO, GET,
//! SET, DEL, INCR, DECR, DBSIZE, INFO, COMMAND and CONFIG.
//!
//! `redis ADDRESS` listens on another address. Ctrl-c ends it.

#[path = "../report.rs"]
mod report;
mod resp;
mod store;

use getty::{
    CodecLayer, Reply, ServiceBuilder, SessionLayer, State, Topics,
    codec::Bytes,
    handler::{NoReply, Router},
    net::TcpListener,
};

use self::{
    report::Report,
    resp::{Client, Command, Resp, Value},
    store::Store,
};

type Channels = Topics<Bytes, Value>;

#[tokio::main]
async fn main() -> Result<(), Report> {
    let commands = Router::<Command, Value, _>::with_state(Channels::new())
        .route("SUBSCRIBE", subscribe)
        .route("UNSUBSCRIBE", unsubscribe)
        .route("PUBLISH", publish)
        .route("QUIT", || Reply::one(Value::OK).and_close())
        .fallback(Store::default().handler());
    let app = ServiceBuilder::new()
        .layer(CodecLayer::new(Resp))
        .layer(SessionLayer::new())
        .service(commands);

    let listener = TcpListener::bind(report::address("127.0.0.1:6380")?).await?;
    println!("listening on {}", listener.local_addr()?);
    getty::serve(listener, app)
        .with_graceful_shutdown(getty::shutdown_signal())
        .await?;
    Ok(())
}

async fn subscribe(
    command: Command,
    client: Client,
    State(channels): State<Channels>,
) -> Result<NoReply, Value> {
    if command.arguments.is_empty() {
        return Err(Value::wrong_arguments(&command.name));
    }
    for channel in command.arguments {
        let count = channels.of(&client).len() + 1;
        // The confirmation is queued before the client can receive a message of the channel. It
        // fails only if the session has closed.
        let _ = client.feed(Value::push("subscribe", &channel, count)).await;
        // a copy, because the name shares the memory of everything that was read with it
        channels.join(Bytes::copy_from_slice(&channel), &client);
    }
    Ok(NoReply)
}

fn unsubscribe(command: Command, client: Client, State(channels): State<Channels>) -> Vec<Value> {
    let leave = move |channel| {
        channels.leave(&channel, &client);
        Value::push("unsubscribe", &channel, channels.of(&client).len())
    };
    command.arguments.into_iter().map(leave).collect()
}

fn publish(command: Command, State(channels): State<Channels>) -> Result<Value, Value> {
    let [channel, message] = command.arguments()?;
    let message = Value::push("message", &channel, message);
    Ok(channels.broadcast(&channel, message).delivered.into())
}
