package org.eetoolkit.example

import android.Manifest
import android.graphics.Bitmap
import android.os.Bundle
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.ImageProxy
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.core.content.ContextCompat
import java.io.File
import java.nio.ByteBuffer
import java.util.concurrent.Executors

/** Answers camera frames with the bundle in `assets/model.ee`; the last answer is on the screen. */
class MainActivity : ComponentActivity() {
    private val worker = Executors.newSingleThreadExecutor()
    private lateinit var text: TextView
    private lateinit var model: Model
    private lateinit var pixels: ByteBuffer

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        text = TextView(this).apply { textSize = 24f }
        setContentView(text)
        worker.execute {
            model = Model(unpacked("model.ee").path)
            pixels = ByteBuffer.allocateDirect(model.shape.fold(1L, Long::times).toInt())
        }
        registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
            if (granted) watch() else text.text = "There is no camera to look through."
        }.launch(Manifest.permission.CAMERA)
    }

    /** A bundle is a folder whose weights are mapped, so it leaves the app's archive once. */
    private fun unpacked(name: String): File {
        val folder = File(filesDir, name)
        val files = assets.list(name).orEmpty()
        if (folder.list()?.toSet() == files.toSet()) return folder
        folder.deleteRecursively()
        val part = File(filesDir, "$name.part").apply { deleteRecursively(); mkdirs() }
        for (file in files) {
            assets.open("$name/$file").use { from -> File(part, file).outputStream().use { from.copyTo(it) } }
        }
        check(part.renameTo(folder)) { "cannot move $part to $folder" }
        return folder
    }

    private fun watch() {
        val analysis = ImageAnalysis.Builder()
            .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
            .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
            .build()
        analysis.setAnalyzer(worker) { frame -> frame.use(::answer) }
        val provider = ProcessCameraProvider.getInstance(this)
        provider.addListener({
            provider.get().bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, analysis)
        }, ContextCompat.getMainExecutor(this))
    }

    private fun answer(frame: ImageProxy) {
        fill(frame.toBitmap())
        val started = System.nanoTime()
        val answer = model.run(pixels)
        val tookMs = (System.nanoTime() - started) / 1e6
        val line = "%s\n%s, %.0f %%, %.2f ms".format(
            answer.label ?: answer.prediction, answer.exit, 100 * answer.confidence, tookMs,
        )
        runOnUiThread { text.text = line }
    }

    /** Writes a frame into `pixels`, in the network's size and layout: NCHW, or NHWC. */
    private fun fill(frame: Bitmap) {
        val shape = model.shape
        val first = shape[1] in 1L..4L
        val (channels, height, width) = if (first) {
            Triple(shape[1], shape[2], shape[3])
        } else {
            Triple(shape[3], shape[1], shape[2])
        }
        val colors = IntArray((width * height).toInt())
        Bitmap.createScaledBitmap(frame, width.toInt(), height.toInt(), true)
            .getPixels(colors, 0, width.toInt(), 0, 0, width.toInt(), height.toInt())
        for ((place, color) in colors.withIndex()) {
            val parts = intArrayOf(color shr 16 and 255, color shr 8 and 255, color and 255)
            for (channel in 0 until channels.toInt()) {
                val value = if (channels == 1L) parts.sum() / 3 else parts[channel]
                pixels.put(if (first) channel * colors.size + place else place * channels.toInt() + channel, value.toByte())
            }
        }
    }

    override fun onDestroy() {
        worker.execute { if (::model.isInitialized) model.close() }
        worker.shutdown()
        super.onDestroy()
    }
}
