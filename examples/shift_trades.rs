//! Shifts that are traded while a payroll run holds some, and an import brings the same ids twice.
//!
//! Prints each refusal as the person who meets it would read it.

use std::time::Duration;

use ifmatch::{Collection, Error, Result, Store, Transacted};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Shift {
    worker: String,
    hours: u32,
    /// The number that the old system knew it by.
    legacy_id: Option<String>,
}

fn shift(worker: &str, legacy_id: &str) -> Shift {
    let (worker, legacy_id) = (worker.to_owned(), Some(legacy_id.to_owned()));
    Shift { worker, hours: 8, legacy_id }
}

fn main() -> Result<()> {
    let store = Store::in_memory();
    let shifts = store
        .declare::<String, Shift>("shifts")
        .unique("legacy_id", |shift: &Shift| shift.legacy_id.clone())
        .history(8)
        .open()?;
    shifts.create("mon-early", shift("ann", "L-1")).by("import").commit()?;
    shifts.create("mon-late", shift("bob", "L-2")).by("import").commit()?;
    let seen_by_carl = shifts.get("mon-late")?.expect("it was created").version();

    println!("Ann and Bob trade Monday, both shifts or none:");
    let traded = trade(&store, &shifts, "mon-early", "mon-late")?;
    println!("  done, in {} attempt", traded.attempts());

    println!("\nCarl saves a form that he opened before the trade:");
    let form = Shift { hours: 6, ..shift("bob", "L-2") };
    tell(shifts.put("mon-late", form.clone()).if_match(seen_by_carl).by("carl").commit());

    println!("\nHe asks for a merge: he changed the hours, the trade changed the worker:");
    let merged = shifts.put("mon-late", form).if_match(seen_by_carl).by("carl").merge().commit()?;
    println!("  saved: {} works {} hours", merged.value().worker, merged.value().hours);

    println!("\nThe payroll run holds one of the shifts, and a trade comes between:");
    let hold = shifts.lease("mon-early").ttl(Duration::from_secs(30)).reason("payroll run");
    let lease = hold.by("payroll").commit()?;
    tell(trade(&store, &shifts, "mon-early", "mon-late"));

    println!("\nThe holder itself may write:");
    shifts.update("mon-early", |shift| shift.hours = 7).holding(&lease).by("payroll").commit()?;
    lease.release().commit()?;
    println!("  saved, and given back");

    println!("\nThe run wakes up late, and thinks that it still holds it:");
    let late = shifts.update("mon-early", |shift| shift.hours = 0).holding(&lease);
    tell(late.by("payroll").commit());

    println!("\nA second import brings an id that there is already, and one that is new:");
    let import = store
        .batch()
        .with(shifts.create("tue-early", shift("dora", "L-2")).by("import").operation_id("row-1"))
        .with(shifts.create("tue-late", shift("emil", "L-3")).by("import").operation_id("row-2"));
    for (row, result) in (1..).zip(import.commit()?) {
        print!("  row {row}:");
        tell(result);
    }

    println!("\nThe reply to row 2 was lost, so it is sent again:");
    let again = shifts.create("tue-late", shift("emil", "L-3")).by("import").operation_id("row-2");
    let again = again.commit()?;
    println!("  it landed before, as version {}: {}", again.version(), again.is_replayed());

    println!("\nOnly a short shift may be dropped:");
    let drop = shifts.delete("tue-late").if_state("short", |shift| shift.hours < 8);
    tell(drop.by("dora").commit());
    Ok(())
}

/// Two shifts change hands at once.
fn trade(
    store: &Store,
    shifts: &Collection<String, Shift>,
    one: &str,
    other: &str,
) -> Result<Transacted<()>> {
    let trade = store.transact(|tx| {
        let (a, b) = (tx.require(shifts, one)?, tx.require(shifts, other)?);
        tx.put(shifts, one, Shift { worker: b.worker.clone(), ..a.value().clone() })?;
        tx.put(shifts, other, Shift { worker: a.worker.clone(), ..b.value().clone() })
    });
    trade.by("ann").commit()
}

fn tell<T>(result: Result<T>) {
    match result {
        Ok(_) => println!("  done"),
        Err(Error::Conflict(conflict)) => println!("  409 {}: {conflict}", conflict.reason()),
        Err(error) => println!("  {error}"),
    }
}
