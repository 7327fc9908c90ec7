use super::*;

#[test]
fn keys_of_other_methods_and_backends_are_refused_by_name() {
    let section = SynthesizeSection {
        method: SynthesisMethod::EvolInstruct,
        count: Some(3),
        weak: Some(GeneratorSection { concurrency: Some(2), ..GeneratorSection::default() }),
        generator: GeneratorSection { backend: GeneratorBackend::Openai, ..GeneratorSection::default() },
        filter: SynthesisFilter {
            min_prompt_characters: 9,
            max_prompt_characters: Some(3),
            duplicate_similarity: Some(0.1),
            ..SynthesisFilter::default()
        },
        ..SynthesizeSection::default()
    };
    let wanted = [
        "seeds",
        "count",
        "weak",
        "generator.model",
        "generator.endpoints",
        "weak.concurrency",
        "filter.max_prompt_characters",
        "filter.duplicate_similarity",
    ];
    assert_eq!(section.validate().keys(), wanted);
}

#[test]
fn topics_can_stand_for_seeds() {
    let mut section = SynthesizeSection {
        method: SynthesisMethod::Examples,
        topics: Some(vec!["rivers".into()]),
        ..SynthesizeSection::default()
    };
    assert_eq!(section.validate().keys(), ["count"]);
    section.count = Some(4);
    assert!(section.validate().is_empty());
}
