//! Answers each line with the same line in upper case.
//!
//! Start it, connect from a second terminal and type a line:
//!
//! ```text
//! cargo run --example quickstart
//! nc 127.0.0.1 7000
//! ```

use std::time::Duration;

use getty::{BoxError, CodecLayer, ServiceBuilder, SessionLayer, codec::Lines, handle};
use getty::{layers::TraceLayer, net::TcpListener};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init();
    let app = ServiceBuilder::new()
        // called once per connection
        .layer(TraceLayer::new())
        .concurrency_limit(10_000)
        .layer(CodecLayer::new(Lines::new()))
        .layer(SessionLayer::new())
        // called once per message
        .timeout(Duration::from_secs(1))
        .service(handle(async |line: String| line.to_ascii_uppercase()));

    let listener = TcpListener::bind("127.0.0.1:7000").await?;
    println!("listening on {}", listener.local_addr()?);
    println!("connect with `nc 127.0.0.1 7000` and type a line; Ctrl-c stops the server");
    getty::serve(listener, app).await?;
    Ok(())
}
