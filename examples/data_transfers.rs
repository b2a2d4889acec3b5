//! One data transfer per user at a time, whichever product asks; the second waits for its turn.

use std::time::Duration;

use ifmatch::{Collection, OnBusy, Result, Retry, Store};

fn main() -> Result<()> {
    let store = Store::in_memory();
    let (photos, mail) = (store.operations("photos_transfer"), store.operations("mail_transfer"));

    let first = photos.begin("user/42").by("photos").ttl(Duration::from_secs(60)).commit()?;
    println!("photos begins: {} is {}", first.id(), first.info().status());
    let albums: Collection<String, u32> = store.collection("albums")?;
    albums.create("user/42/2019", 12).by("alice").commit()?;
    let lease = first.lease(&albums, "user/42/2019").reason("being moved").commit()?;
    first.progress(40).commit()?;

    println!("\nalice adds a picture to an album that is being moved:");
    let refused = albums.update("user/42/2019", |pictures| *pictures += 1).by("alice").commit();
    println!("  409 {}", refused.unwrap_err());
    albums.put("user/42/2019", 0).if_exists().by("photos").holding(&lease).commit()?;

    println!("\nmail asks for the same user, and is refused:");
    let refused = mail.begin("user/42").by("mail").commit().unwrap_err();
    println!("  409 {refused}");
    if let Some(Retry::After(wait)) = refused.conflict().map(|conflict| conflict.retry()) {
        println!("  Retry-After: {} s", wait.as_secs().max(1));
    }

    println!("\nso it queues behind the first one:");
    let second = mail.begin("user/42").by("mail").on_busy(OnBusy::Queue).commit()?;
    let place = second.info().position().unwrap_or(0);
    println!("  {} is {}, number {place} in line", second.id(), second.info().status());

    println!("\nmail cannot go on before its turn:");
    println!("  409 {}", second.progress(1).commit().unwrap_err());

    let running = photos.get(first.id())?.expect("it is in progress");
    println!("\nphotos is at {} %", running.progress().unwrap_or(0));
    first.complete("12,000 photos").commit()?;

    let started = second.wait_for_start().within(Duration::from_secs(5)).wait()?;
    println!("photos is done, and mail is {}", started.expect("it is known").status());
    albums.update("user/42/2019", |pictures| *pictures += 1).by("alice").commit()?;
    println!("the album is nobody's any more, and alice adds her picture");
    second.complete("300 letters").commit()?;

    let done = mail.wait_for(second.id()).within(Duration::from_secs(5)).wait()?;
    let done = done.expect("its result is kept for a day");
    let result = String::from_utf8_lossy(done.result().unwrap_or_default()).into_owned();
    println!("mail is {}: {result}", done.status());

    println!("\nphotos wakes up late, and thinks that it still runs:");
    println!("  409 {}", first.progress(99).commit().unwrap_err());
    Ok(())
}
