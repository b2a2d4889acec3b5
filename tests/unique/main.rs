//! Unique indexes: what they refuse, what they find, and that they agree with the entities.

#[path = "../common/mod.rs"]
mod common;

mod building;
mod documents;
mod lookups;
mod model;
mod refusals;

use ifmatch::{Collection, CollectionBuilder, Store};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Employee {
    name: String,
    legacy_id: Option<String>,
    badge: u32,
}

type Employees = Collection<String, Employee>;

/// Of badge 0, which nobody minds sharing.
fn employee(name: &str, legacy_id: &str) -> Employee {
    let legacy_id = Some(legacy_id.to_owned()).filter(|id| !id.is_empty());
    Employee { name: name.to_owned(), legacy_id, badge: 0 }
}

fn declare(store: &Store) -> CollectionBuilder<'_, String, Employee> {
    store
        .declare("employees")
        .unique("legacy_id", |employee: &Employee| employee.legacy_id.clone())
        .unique("badge", |employee: &Employee| Some(employee.badge).filter(|badge| *badge > 0))
}

fn employees(store: &Store) -> Employees {
    declare(store).open().unwrap()
}

/// The key of the entity with this legacy id.
fn holder(employees: &Employees, legacy_id: &str) -> Option<String> {
    let (key, entity) = employees.find_by("legacy_id", legacy_id).unwrap()?;
    assert_eq!(entity.legacy_id.as_deref(), Some(legacy_id));
    Some(key)
}

/// Index and entities agree: each entity is found by what it has, and nothing else is found.
fn check_agreement(employees: &Employees, legacy_ids: impl Iterator<Item = String>) {
    for item in employees {
        let (key, entity) = item.unwrap();
        if let Some(legacy_id) = &entity.legacy_id {
            let (found, same) = employees.find_by("legacy_id", legacy_id).unwrap().unwrap();
            assert_eq!((&found, same.version()), (&key, entity.version()), "{legacy_id}");
        }
        if entity.badge > 0 {
            let found = employees.find_by("badge", entity.badge).unwrap().unwrap();
            assert_eq!(found.0, key, "badge {}", entity.badge);
        }
    }
    for legacy_id in legacy_ids {
        if let Some(key) = holder(employees, &legacy_id) {
            let entity = employees.get(&key).unwrap().unwrap();
            assert_eq!(entity.legacy_id, Some(legacy_id), "{key}");
        }
    }
}
