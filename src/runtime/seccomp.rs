//! Seccomp: the field's default profile, and profiles as BPF.
//!
//! The profile is an allow list in OCI form, so that the bundle's config.json says it all and any runtime can run it. Some
//! calls are allowed with certain capabilities only, some with certain arguments only. What is compiled differs from what
//! libseccomp would make in two points: only the machine's own architecture may make system calls (32-bit programs are
//! killed), and calls newer than the list answer ENOSYS, so that C libraries fall back as on an old kernel.
use std::collections::BTreeMap;

use oci_spec::runtime::{
    Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::syscalls;
use super::types::{Error, Result};

/// `CLONE_NEW*` bits: no namespaces for who is not an administrator.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
/// Personalities that take nothing from anybody: Linux, its 32-bit uname variants, and "tell me".
const PERSONALITIES: &[u64] = &[0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Sockets to the hypervisor reach past every namespace.
const AF_VSOCK: u64 = 40;

fn allow(names: &[&str], args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow, None, args)
}

fn rule(names: &[&str], action: LinuxSeccompAction, errno: Option<u32>, args: Vec<LinuxSeccompArg>) -> LinuxSyscall {
    let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
    let mut rule = LinuxSyscallBuilder::default().names(names).action(action);
    if let Some(errno) = errno {
        rule = rule.errno_ret(errno);
    }
    if !args.is_empty() {
        rule = rule.args(args);
    }
    rule.build().expect("every field of a syscall rule has a default")
}

fn arg(index: usize, value: u64, op: LinuxSeccompOperator, two: Option<u64>) -> LinuxSeccompArg {
    let mut arg = LinuxSeccompArgBuilder::default().index(index).value(value).op(op);
    if let Some(two) = two {
        arg = arg.value_two(two);
    }
    arg.build().expect("every field of a seccomp argument has a default")
}

/// The profile containers get unless they ask for another, for a process with these capabilities in its bounding set.
pub fn default_profile(caps: &[Capability]) -> LinuxSeccomp {
    use LinuxSeccompOperator::{ScmpCmpEq, ScmpCmpMaskedEq, ScmpCmpNe};
    let mut rules =
        vec![allow(&syscalls::always(), Vec::new()), allow(&["socket"], vec![arg(0, AF_VSOCK, ScmpCmpNe, None)])];
    for value in PERSONALITIES {
        rules.push(allow(&["personality"], vec![arg(0, *value, ScmpCmpEq, None)]));
    }
    if !caps.contains(&Capability::SysAdmin) {
        let no_namespaces = arg(0, CLONE_NAMESPACES, ScmpCmpMaskedEq, Some(0));
        rules.push(allow(&["clone"], vec![no_namespaces]));
        // Its flags are in memory, out of a filter's reach; "no such call" makes C libraries use clone.
        rules.push(rule(&["clone3"], LinuxSeccompAction::ScmpActErrno, Some(libc::ENOSYS as u32), Vec::new()));
    }
    for (cap, names) in syscalls::WITH_CAPABILITY {
        if caps.contains(cap) {
            rules.push(allow(names, Vec::new()));
        }
    }
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(libc::EPERM as u32)
        .syscalls(rules)
        .build()
        .expect("every field of a seccomp profile has a default")
}

/// A profile as an array of `struct sock_filter` in native byte order.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    let (mut rules, mut refused) = (BTreeMap::<i64, Vec<SeccompRule>>::new(), Vec::new());
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut matched = None;
    for syscall in profile.syscalls().iter().flatten() {
        let numbers = syscall.names().iter().filter_map(|n| syscalls::number(n));
        let acts = action(syscall.action(), syscall.errno_ret())?;
        let args = syscall.args().as_deref().unwrap_or_default();
        if acts == default {
            continue;
        }
        if let SeccompAction::Errno(errno) = acts
            && args.is_empty()
        {
            refused.extend(numbers.map(|n| (n, errno)));
            continue;
        }
        if *matched.get_or_insert(acts.clone()) != acts {
            let text = "seccomp profiles with several conditional actions are not supported";
            return Err(Error::Invalid(text.into()));
        }
        for number in numbers {
            add_rule(rules.entry(number).or_insert_with(Vec::new), args)?;
        }
    }
    // An unconditional rule (an empty list, for the compiler) beats conditional ones.
    for list in rules.values_mut() {
        if list.iter().any(|r| *r == always()) {
            list.clear();
        }
    }
    let matched = matched.unwrap_or(SeccompAction::Allow);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(invalid)?;
    let program: BpfProgram =
        SeccompFilter::new(rules, default.clone(), matched, arch).and_then(TryInto::try_into).map_err(invalid)?;
    let mut bytes = prologue(&refused, matches!(default, SeccompAction::Errno(_)));
    for i in &program {
        bytes.extend(instruction(i.code, i.jt, i.jf, i.k));
    }
    Ok(bytes)
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("seccomp profile: {error}"))
}

/// A stand-in for "no conditions", which a `SeccompRule` cannot say: removed before compiling.
fn always() -> SeccompRule {
    let any = SeccompCondition::new(5, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(0), 0);
    any.and_then(|c| SeccompRule::new(vec![c])).expect("argument 5 exists and one condition is enough")
}

fn add_rule(list: &mut Vec<SeccompRule>, args: &[LinuxSeccompArg]) -> Result<()> {
    if args.is_empty() {
        list.push(always());
        return Ok(());
    }
    let conditions: Result<Vec<_>> = args.iter().map(condition).collect();
    list.push(SeccompRule::new(conditions?).map_err(invalid)?);
    Ok(())
}

fn condition(arg: &LinuxSeccompArg) -> Result<SeccompCondition> {
    use LinuxSeccompOperator::*;
    let (op, value) = match arg.op() {
        ScmpCmpNe => (SeccompCmpOp::Ne, arg.value()),
        ScmpCmpLt => (SeccompCmpOp::Lt, arg.value()),
        ScmpCmpLe => (SeccompCmpOp::Le, arg.value()),
        ScmpCmpEq => (SeccompCmpOp::Eq, arg.value()),
        ScmpCmpGe => (SeccompCmpOp::Ge, arg.value()),
        ScmpCmpGt => (SeccompCmpOp::Gt, arg.value()),
        ScmpCmpMaskedEq => (SeccompCmpOp::MaskedEq(arg.value()), arg.value_two().unwrap_or(0)),
    };
    SeccompCondition::new(arg.index() as u8, SeccompCmpArgLen::Qword, op, value).map_err(invalid)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<SeccompAction> {
    use LinuxSeccompAction::*;
    Ok(match action {
        ScmpActAllow => SeccompAction::Allow,
        ScmpActLog => SeccompAction::Log,
        ScmpActErrno => SeccompAction::Errno(errno.unwrap_or(libc::EPERM as u32)),
        ScmpActTrap => SeccompAction::Trap,
        ScmpActKill | ScmpActKillThread => SeccompAction::KillThread,
        ScmpActKillProcess => SeccompAction::KillProcess,
        ScmpActTrace => SeccompAction::Trace(errno.unwrap_or(0)),
        ScmpActNotify => return Err(invalid("SCMP_ACT_NOTIFY is not supported")),
    })
}

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> [u8; 8] {
    let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
    [code[0], code[1], jt, jf, k[0], k[1], k[2], k[3]]
}

/// In front of the compiled program: answers that are an error other than the default one.
///
/// ```text
///   ld  nr
///   jge FIRST_UNKNOWN, 0, 1     only if the default is to refuse
///   ret ERRNO | ENOSYS
///   jeq refused, 0, 1           for each
///   ret ERRNO | errno
/// ```
fn prologue(refused: &[(i64, u32)], deny: bool) -> Vec<u8> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let errno = |errno: u32| instruction(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno);
    let mut bytes = Vec::from(instruction(LOAD, 0, 0, 0)); // the number is seccomp_data's first word
    if deny {
        bytes.extend(instruction(JUMP_GE, 0, 1, syscalls::FIRST_UNKNOWN));
        bytes.extend(errno(libc::ENOSYS as u32));
    }
    for (number, code) in refused {
        bytes.extend(instruction(JUMP_EQ, 0, 1, *number as u32));
        bytes.extend(errno(*code));
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run a program on one system call, as the kernel would: enough of BPF for what compilers emit.
    fn verdict(program: &[u8], nr: u32, args: [u64; 6]) -> u32 {
        let mut data = [0u8; 64];
        data[..4].copy_from_slice(&nr.to_ne_bytes());
        let arch: u32 = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (i, a) in args.iter().enumerate() {
            data[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_ne_bytes());
        }
        let (mut pc, mut acc) = (0usize, 0u32);
        loop {
            let i = &program[pc * 8..pc * 8 + 8];
            let code = u16::from_ne_bytes([i[0], i[1]]) as u32;
            let k = u32::from_ne_bytes(i[4..8].try_into().unwrap());
            pc += 1;
            match code & 7 {
                0 => acc = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                4 => {
                    acc = match code & 0xf0 {
                        0x50 => acc & k,
                        other => panic!("alu {other:#x}"),
                    }
                }
                5 => {
                    let yes = match code & 0xf0 {
                        0x00 => {
                            pc += k as usize;
                            continue;
                        }
                        0x10 => acc == k,
                        0x20 => acc > k,
                        0x30 => acc >= k,
                        0x40 => acc & k != 0,
                        other => panic!("jump {other:#x}"),
                    };
                    pc += if yes { i[2] } else { i[3] } as usize;
                }
                6 => return k,
                other => panic!("class {other}"),
            }
        }
    }

    fn errno(code: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | code as u32
    }

    #[test]
    fn the_default_profile_allows_and_refuses() {
        let plain = compile(&default_profile(&[Capability::Chown])).unwrap();
        let admin = compile(&default_profile(&[Capability::SysAdmin])).unwrap();
        let call = |p: &[u8], nr: libc::c_long, first: u64| verdict(p, nr as u32, [first, 0, 0, 0, 0, 0]);
        let allowed = libc::SECCOMP_RET_ALLOW;
        assert_eq!(call(&plain, libc::SYS_read, 0), allowed);
        assert_eq!(call(&plain, libc::SYS_execve, 0), allowed);
        assert_eq!(call(&plain, libc::SYS_mount, 0), errno(libc::EPERM));
        assert_eq!(call(&admin, libc::SYS_mount, 0), allowed);
        assert_eq!(call(&plain, libc::SYS_clone, libc::SIGCHLD as u64), allowed);
        assert_eq!(call(&plain, libc::SYS_clone, libc::CLONE_NEWUSER as u64), errno(libc::EPERM));
        assert_eq!(call(&admin, libc::SYS_clone, libc::CLONE_NEWUSER as u64), allowed);
        assert_eq!(call(&plain, libc::SYS_clone3, 0), errno(libc::ENOSYS));
        assert_eq!(call(&plain, libc::SYS_socket, libc::AF_INET as u64), allowed);
        assert_eq!(call(&plain, libc::SYS_socket, AF_VSOCK), errno(libc::EPERM));
        assert_eq!(call(&plain, libc::SYS_personality, 0xffff_ffff), allowed);
        assert_eq!(call(&plain, libc::SYS_personality, 0x4_0000), errno(libc::EPERM));
        assert_eq!(call(&plain, 4000, 0), errno(libc::ENOSYS));
        assert_eq!(call(&plain, libc::SYS_kexec_load, 0), errno(libc::EPERM));
        assert_eq!(call(&plain, libc::SYS_io_uring_setup, 0), errno(libc::EPERM));
    }
}
