//! Pages of a collection: in key order, complete, and bounded.

use crate::client::Client;

fn keys(page: &serde_json::Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap().iter();
    items.map(|item| item["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn pages_join_to_the_whole() {
    let client = Client::in_memory();
    for number in 0..25 {
        client.overwrite(&format!("/collections/c/k-{number:02}"), &number.to_string());
    }
    client.overwrite("/collections/c/other", " {\"a\": 1.0} ");
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/collections/c?prefix=k-&limit=10&after={after}");
        let page = client.get(&path).json();
        seen.extend(keys(&page));
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25).map(|number| format!("k-{number:02}")).collect();
    assert_eq!(seen, expected);
    assert_eq!(keys(&client.get("/collections/c?after=k-23").json()), ["k-24", "other"]);
    let exact = client.get("/collections/c?prefix=k-&limit=25").json();
    assert_eq!(exact["next"], serde_json::Value::Null);
}

#[test]
fn an_item_is_what_a_read_gives() {
    let client = Client::in_memory();
    let tag = client.overwrite("/collections/c/a", " {\"a\": 1.0} ");
    let page = client.get("/collections/c");
    assert!(page.text().contains(r#""value":{"a": 1.0}"#), "{}", page.text());
    let item = &page.json()["items"][0];
    assert_eq!(item["etag"], tag.as_str());
    assert_eq!(item["written_by"], serde_json::Value::Null);
    assert!(item["written_at"].as_str().unwrap().ends_with('Z'));
    assert!(tag.ends_with(&format!("-{}\"", item["version"])));
}

#[test]
fn g12_a_page_is_bounded() {
    let client = Client::in_memory();
    let large = format!("\"{}\"", "x".repeat(1_000_000));
    for key in ["a", "b", "c", "d", "e", "f", "g"] {
        client.overwrite(&format!("/collections/c/{key}"), &large);
    }
    let page = client.get("/collections/c").json();
    assert_eq!((keys(&page).len(), page["next"].as_str()), (5, Some("e")));
    for limit in ["0", "1001", "-1", "ten", ""] {
        let answer = client.get(&format!("/collections/c?limit={limit}"));
        assert_eq!(answer.reason(), "malformed", "{limit}");
    }
}
