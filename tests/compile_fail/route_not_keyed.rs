//! The message has no key.

use getty::{Router};

struct Command {
    name: String,
}


fn say(command: Command) -> String {
    command.name
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
