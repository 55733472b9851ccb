/*
 * From the reset vector to main() in 32-bit protected mode. This image is the machine's whole
 * firmware: the processor starts at the last 16 bytes of 4 GiB, where QEMU's -bios puts its end.
 */
    .section .text
    .code16
start16:
    cli
    lgdtl %cs:gdt_pointer_in_cs         /* from guest.ld */
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x08, $start32

    .code32
start32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl $stack_top, %esp
    movl $bss_start, %edi
    movl $bss_end, %ecx
    subl %edi, %ecx
    xorl %eax, %eax
    cld
    rep stosb
    call main
halt:
    cli
    hlt
    jmp halt

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            /* 0x08: code, 4 GiB */
    .quad 0x00cf93000000ffff            /* 0x10: data, 4 GiB */
    .globl gdt_pointer
gdt_pointer:
    .word . - gdt - 1
    .long gdt

    .section .reset, "ax"
    .code16
    .globl reset
reset:
    jmp start16

    .section .note.GNU-stack, "", @progbits
