//! The handler takes a state, and the router has none.

use getty::{Keyed, Router, State};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

#[derive(Clone)]
struct Rooms;

async fn say(command: Command, State(_rooms): State<Rooms>) -> String {
    command.name
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
