//! Iterations of a run side by side, and adapters by name.

use serde_json::json;

use super::client::Server;
use crate::run_world;

#[test]
fn a_run_s_iterations_are_served_by_name() {
    let world = run_world();
    world.selfplay(&["run", "recipe.toml", "-o", "run", "-q"]).ok();
    let server = Server::start(&world, &["--model", "run"]);
    let models = server.get("/v1/models").json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["iteration_02", "base", "iteration_01"]);
    let asked = |server: &Server, model: &str| {
        let reply = server.complete(json!({"model": model, "logprobs": 1, "echo": true}));
        reply.json()["choices"][0]["logprobs"]["token_logprobs"].clone()
    };
    let (base, last) = (asked(&server, "base"), asked(&server, "iteration_02"));
    assert_ne!(base, last);
    let unnamed = server.complete(json!({"logprobs": 1, "echo": true})).json();
    assert_eq!(unnamed["model"], "iteration_02", "the first answers a request that names none");
    drop(server);

    // Each is what its folder is.
    let folder = Server::start(&world, &["--model", "run/iteration_02/policy", "--name", "x"]);
    assert_eq!(asked(&folder, "x"), last);
    drop(folder);
    let some = Server::start(&world, &["--model", "run", "--only", "base"]);
    assert_eq!(asked(&some, "base"), base);
    assert_eq!(some.complete(json!({"model": "iteration_01"})).status, 404);
    drop(some);
    world
        .selfplay(&["serve", "--model", "run", "--only", "iteration_07", "--port", "0"])
        .refused(&["--only iteration_07", "iteration_01"]);
}
