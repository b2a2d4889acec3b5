//! An axum application whose rooms answer 409 when they should, at http://127.0.0.1:4091/rooms.
//!
//! ```sh
//! curl -i -X PUT localhost:4091/rooms/r-1 -H 'If-None-Match: *' \
//!      -H 'Content-Type: application/json' -d '{"seats":4}'
//! ```

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use ifmatch::axum::{Refusal, Tagged};
use ifmatch::{Actor, Collection, Error, Json, Store};
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Room {
    seats: u32,
}

/// Everything there is of `/rooms`, and one handler beside it.
pub(crate) fn app(store: &Store) -> Result<Router, Error> {
    let rooms = store.declare::<String, Room>("rooms").codec(Json).history(8).open()?;
    let resource = ifmatch::axum::resource(rooms.clone());
    let added = Router::new().route("/{key}/seats", post(add_seat)).with_state(rooms);
    Ok(Router::new().nest("/rooms", resource.merge(added)))
}

async fn add_seat(
    State(rooms): State<Collection<String, Room>>,
    Path(key): Path<String>,
    actor: Option<Actor>,
) -> Result<Tagged<Room>, Refusal> {
    let add = rooms.update(&key, |room| room.seats += 1);
    let written = if let Some(actor) = actor { add.by(actor).await? } else { add.await? };
    Ok(Tagged::written(&rooms, &written))
}

#[tokio::main]
#[allow(dead_code, reason = "the tests call `app` alone")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:4091").await?;
    axum::serve(listener, app(&Store::in_memory())?).await?;
    Ok(())
}
