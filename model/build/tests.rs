//! The list of kernels that the build script makes, held against sources that are written out here: a test binary in the
//! script's folder, since cargo tests no build script.

mod kernel_names;

use kernel_names::kernel_names;
use selfplay_model::gpu::KERNELS;

fn names(sources: &[&str]) -> Vec<String> {
    kernel_names(&sources.iter().map(|source| (*source).to_owned()).collect::<Vec<_>>())
}

#[test]
fn plain_functions_are_found_and_comments_are_not() {
    let source = r#"
        // extern "C" __global__ void in_a_comment(int n)
        extern "C" __global__ void zero(float* x, int64_t n) { x[0] = 0; } /* __global__ void neither( */
        extern "C" __global__ void __launch_bounds__((4 + 4) * 32)
            draw(uint32_t* ids) {}
        template <class T> __device__ void helper(T x) {}
    "#;
    assert_eq!(names(&[source]), ["draw", "zero"]);
}

#[test]
fn macros_declare_kernels_wherever_they_are_used() {
    let header = r#"
#define FOR_BOTH(name, body, bf, fl)                        \
    extern "C" __global__ void name##_bf16 bf { body<b>(); } \
    extern "C" __global__ void name##_f32 fl { body<f>(); }
#define UNUSED(name) extern "C" __global__ void unused_##name() {}
"#;
    let source = r#"
#define ATTEND(name, T) name(T* out) {}
#define ATTEND_PAGES(name, T, WARPS)                           \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) \
        ATTEND(attend_##name##_pages, T)
#define BACKWARD(kernel, name, ...) extern "C" __global__ void name(int n) { kernel<__VA_ARGS__>(n); }
FOR_BOTH(add, add, (bf16* x, int n),
         (float* x, int n))
ATTEND_PAGES(bf16_64, bf16, 4)
ATTEND_PAGES(f32_64, float, 2)
BACKWARD(keys, keys_bf16, 1 COMMA 2)
"#;
    let want = ["add_bf16", "add_f32", "attend_bf16_64_pages", "attend_f32_64_pages", "keys_bf16"];
    assert_eq!(names(&[source, header]), want);
}

/// The emulator's compiler refuses a name too many, and a launch one too few; here, that every kind of declaration is read.
#[test]
fn the_kernels_of_this_build_are_listed_once() {
    assert!(KERNELS.is_sorted_by(|a, b| a < b), "{KERNELS:?}");
    for name in ["adamw", "add_bf16", "attention_forward_f32_256", "attend_common_pages_bf16_128", "draw"] {
        assert!(KERNELS.contains(&name), "{name}");
    }
}
