//! The handler returns a type that is not a reply.

use getty::{Keyed, Router};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = str;

    fn key(&self) -> &str {
        &self.name
    }
}

async fn say(command: Command) -> usize {
    command.name.len()
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
