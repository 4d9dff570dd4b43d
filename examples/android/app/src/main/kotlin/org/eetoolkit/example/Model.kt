package org.eetoolkit.example

import java.nio.ByteBuffer
import java.nio.FloatBuffer

/** What a bundle says of one row; `prediction` is -1 where it names no class. */
class Answer(val exit: String, val label: String?, val prediction: Long, val confidence: Float)

/** A bundle with one input, for one thread at a time. Errors are IllegalStateExceptions with the runner's text. */
class Model(folder: String) : AutoCloseable {
    private val handle = open(folder)

    /** The input's dimensions, of one row. */
    val shape: LongArray get() = shape(handle)

    /** Answers pixels, 0 to 255, in the input's layout, as the bundle's preprocess takes them; a direct buffer. */
    fun run(pixels: ByteBuffer): Answer = run(handle, pixels, true)

    /** Answers numbers as the network takes them; a direct buffer in the machine's byte order. */
    fun run(numbers: FloatBuffer): Answer = run(handle, numbers, false)

    override fun close() = free(handle)

    private external fun open(folder: String): Long
    private external fun free(handle: Long)
    private external fun shape(handle: Long): LongArray
    private external fun run(handle: Long, data: Any, pixels: Boolean): Answer

    private companion object {
        init {
            System.loadLibrary("eetoolkit_jni")
        }
    }
}
