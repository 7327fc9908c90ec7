use selfplay_testing::Random;

use super::*;

/// So many tokens to an item; as many are few.
fn together(most: usize) -> ItemTokens {
    ItemTokens { most, narrow: most }
}

fn queries<'a>(rows: &[(usize, usize, &'a [u32], usize)]) -> Vec<Query<'a>> {
    let tokens = |&(new, context, pages, shared): &(usize, usize, &'a [u32], usize)| {
        (context..context + new).map(move |position| Query { pages, position, shared })
    };
    rows.iter().flat_map(tokens).collect()
}

#[test]
fn candidates_of_a_prompt_read_its_pages_together() {
    let (a, b, c) = ([5, 6, 7], [5, 6, 8], [9, 6, 3]);
    let tables =
        StepTables::new(&queries(&[(1, 33, &a, 32), (1, 40, &b, 32), (1, 33, &c, 32)]), together(16));
    assert_eq!(tables.common, [[0, 2, 0, 32, 0, 0], [2, 1, 0, 32, 0, 6]]);
    // One part before each, which it joins.
    assert_eq!(tables.own, [[0, 1, 32, 34, -2, 0], [1, 1, 32, 41, -2, 3], [2, 1, 32, 34, -2, 6]]);
    assert_eq!((&tables.part_start[..], tables.joins.len()), (&[0, 1, 2, 3][..], 0));
    assert_eq!(tables.slots, [7 * 16 + 1, 8 * 16 + 8, 3 * 16 + 1]);
    assert_eq!(tables.tables, [5, 6, 7, 5, 6, 8, 9, 6, 3]);
}

#[test]
fn a_prompts_tokens_go_together_up_to_its_last_page() {
    let pages = [1, 2, 3];
    let tables = StepTables::new(&queries(&[(6, 28, &pages, 32)]), together(3));
    // Positions 28 to 31 are the prompt's whole; 32 and 33 lie past its full pages.
    assert_eq!(tables.common, [[0, 3, 0, 31, -1, 0], [3, 1, 0, 32, -1, 0], [4, 2, 0, 32, 0, 0]]);
    assert_eq!(tables.own, [[4, 1, 32, 33, -2, 0], [5, 1, 32, 34, -2, 0]]);
    assert_eq!(tables.part_start, [0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn long_stretches_are_cut_into_parts() {
    let pages: Vec<u32> = (0..100).collect();
    let tables = StepTables::new(&queries(&[(1, 1599, &pages, 560)]), together(4));
    assert_eq!(tables.common, [[0, 1, 0, 512, 0, 0], [0, 1, 512, 560, 1, 0]]);
    assert_eq!(tables.own, [[0, 1, 560, 1072, 2, 0], [0, 1, 1072, 1584, 3, 0], [0, 1, 1584, 1600, 4, 0]]);
    assert_eq!((&tables.part_start[..], &tables.joins[..]), (&[0, 5][..], &[0][..]));
    let alone = StepTables::new(&queries(&[(1, 511, &pages, 0)]), together(4));
    assert_eq!((alone.common.len(), &alone.own[..]), (0, &[[0, 1, 0, 512, -1, 0]][..]));
}

/// Every token's parts cover its keys once, however rows and chunks lie beside each other.
#[test]
fn every_key_is_read_once() {
    let pages: Vec<Vec<u32>> = (0..4u32).map(|row| (0..200).map(|page| row * 200 + page).collect()).collect();
    let mut random = Random::new(5);
    let mut random = |below: usize| random.below(below);
    for _ in 0..200 {
        let rows: Vec<_> = (0..4)
            .map(|row| (1 + random(70), random(2000), &pages[row][..], random(60) * PAGE_TOKENS))
            .collect();
        let queries = queries(&rows);
        let tables = StepTables::new(&queries, together(1 + random(20)));
        for (token, query) in queries.iter().enumerate() {
            let holds = |item: &&[i32; ITEM]| (item[0]..item[0] + item[1]).contains(&(token as i32));
            let mut items: Vec<_> = tables.common.iter().chain(&tables.own).filter(holds).collect();
            items.sort_by_key(|item| item[2]);
            let mut next = 0;
            for item in &items {
                assert_eq!(item[2], next);
                next = item[3];
            }
            // A prompt's tokens stop by themselves at their own position.
            assert!(next as usize > query.position);
            let parts = tables.part_start[token + 1] - tables.part_start[token];
            let numbers: Vec<i32> = items.iter().map(|item| item[4]).collect();
            let is_own =
                |item: &&&[i32; ITEM]| query.position >= query.shared && item[2] >= query.shared as i32;
            let (own, count) = (items.iter().filter(is_own).count(), items.len() as i32);
            // One own part, the last, makes the whole of those before it; several leave theirs for the pass that joins them.
            let mut want: Vec<i32> = (0..count).collect();
            if own <= 1 {
                want[items.len() - 1] = -count;
            }
            assert_eq!(numbers, want);
            assert_eq!(parts as i32, if own <= 1 { count - 1 } else { count });
            assert_eq!(tables.joins.contains(&(token as u32)), own > 1);
            let row = rows.iter().map(|row| row.0).scan(0, |end, new| {
                *end += new;
                Some(*end)
            });
            let row = row.take_while(|&end| end <= token).count();
            assert!(items.iter().all(|item| {
                let first = usize::try_from(item[5]).unwrap() + query.position / PAGE_TOKENS;
                tables.tables[first] == rows[row].2[query.position / PAGE_TOKENS]
            }));
        }
    }
}

#[test]
fn tables_are_filled_up_by_what_does_nothing() {
    let pages = [4, 5];
    let tables = StepTables::new(&queries(&[(1, 20, &pages, 16)]), together(4));
    let (own, common, joins, parts) = (2, 2, 3, 5);
    let capacity = TableCapacity { tokens: 3, own, common, joins, parts, tables: 4, is_wide: true };
    let mut words = vec![7; capacity.words()];
    tables.fill(&capacity, &mut words);
    let starts = capacity.starts();
    assert_eq!(words[starts[0]..starts[1]], [5 * 16 + 4, NO_SLOT, NO_SLOT]);
    assert_eq!(words[starts[2]..starts[3]], [NO_SLOT; 3]);
    assert_eq!(words[starts[3]..starts[4]], [0, 1, 1, 1]);
    assert_eq!(words[starts[4] + ITEM..starts[5]], [0; ITEM]);
    assert_eq!(words[starts[6]..], [4, 5, 0, 0]);
    let (own, common, joins, parts) = (1, 1, 0, 1);
    let least = TableCapacity { tokens: 1, own, common, joins, parts, tables: 2, is_wide: false };
    assert_eq!(tables.capacity(), least);
    assert!(capacity.holds(&least) && !least.holds(&capacity));
    // A pass that joins parts is for all tokens, or there is none.
    assert_eq!(least.rounded(4).joins, 0);
    assert_eq!(TableCapacity { joins: 1, ..least }.rounded(4).joins, 4);
}

/// The narrow form is for steps whose every item with common keys has few tokens; tokens that share nothing are no such items.
#[test]
fn few_candidates_of_a_prompt_are_narrow() {
    let together = ItemTokens { most: 4, narrow: 2 };
    let pages: Vec<[u32; 3]> = (0..3).map(|row| [1, 2, row + 3]).collect();
    let is_wide = |rows: usize, shared: usize| {
        let rows: Vec<_> = pages[..rows].iter().map(|pages| (1, 40, &pages[..], shared)).collect();
        StepTables::new(&queries(&rows), together).capacity().is_wide
    };
    assert_eq!([is_wide(1, 32), is_wide(2, 32), is_wide(3, 32), is_wide(3, 0)], [false, false, true, false]);
    // A prompt's own tokens.
    let prompt = |new| StepTables::new(&queries(&[(new, 0, &pages[0][..], 32)]), together).is_wide;
    assert_eq!([prompt(2), prompt(3)], [false, true]);
}

/// A token's cuts are the same alone and among 1,024 or 2,048 rows of other lengths: its bits know nothing of its company.
#[test]
fn a_tokens_parts_are_its_own_among_any_number_of_rows() {
    let pages: Vec<Vec<u32>> =
        (0..2048u32).map(|row| (0..130).map(|page| row * 130 + page).collect()).collect();
    let mut random = Random::new(9);
    let rows: Vec<_> = pages
        .iter()
        .map(|pages| (1, random.below(2000), &pages[..], random.below(125) * PAGE_TOKENS))
        .collect();
    /// From, to and part of what a token reads.
    fn parts_of(tables: &StepTables, token: usize) -> [Vec<[i32; 3]>; 2] {
        let of = |items: &[[i32; ITEM]]| {
            let holds = |item: &&[i32; ITEM]| (item[0]..item[0] + item[1]).contains(&(token as i32));
            items.iter().filter(holds).map(|item| [item[2], item[3], item[4]]).collect()
        };
        [of(&tables.own), of(&tables.common)]
    }
    for count in [1024, 2048] {
        let tables = StepTables::new(&queries(&rows[..count]), together(16));
        let rounded = tables.capacity().rounded(count);
        assert!(rounded.holds(&tables.capacity()) && rounded.tokens() == count);
        for token in (0..count).step_by(37) {
            let alone = StepTables::new(&queries(&rows[token..=token]), together(16));
            assert_eq!(parts_of(&tables, token), parts_of(&alone, 0), "token {token} of {count}");
        }
    }
}
