//! Batches of as many rows as a large GPU's.

use super::*;
use crate::backend::late::LateModel;

/// 1,024 and 2,048 rows in one step, beside a prompt that is longer than the rest of its budget.
#[test]
fn thousands_of_rows_share_a_step() {
    let plain = Sampling { num_samples: 8, temperature: 1.3, max_new_tokens: 12, ..Sampling::default() };
    for rows in [1024, 2048] {
        let model = LateModel::new(FakeModel::new(VOCAB, CONTEXT)).0;
        let mut engine = Engine::new(Box::new(model), &FakeText, capacity(rows, rows + 20, 100_000));
        let requests: Vec<Request> = (0..rows / 8 + 4)
            .map(|number| Request { stop: Arc::default(), ..request(number, 1 + number % 40, plain, &[]) })
            .collect();
        let ids: Vec<RequestId> = requests.iter().map(|one| engine.add(one.clone()).unwrap()).collect();
        let (mut seen, mut most) = (Seen::default(), 0);
        while !engine.is_idle() {
            for event in engine.step().unwrap() {
                if let RequestEvent::Finished { request, sample } = event {
                    seen.finished.entry(request).or_default().push(sample);
                }
            }
            most = most.max(engine.running());
        }
        engine.schedule().check_invariants();
        assert!(most > rows * 9 / 10 && most <= rows, "{most} of {rows} rows");
        for (&id, request) in ids.iter().zip(&requests).step_by(17) {
            assert_eq!(seen.samples(id), all_by_hand(request));
        }
    }
}
