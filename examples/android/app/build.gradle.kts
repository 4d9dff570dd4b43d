plugins {
    id("com.android.application") version "8.7.3"
    id("org.jetbrains.kotlin.android") version "2.0.21"
}

// The folder with onnxruntime_c_api.h: `headers/` of the onnxruntime-android archive, unpacked.
val onnxruntimeHeaders: String by project

android {
    namespace = "org.eetoolkit.example"
    compileSdk = 35
    defaultConfig {
        minSdk = 26
        targetSdk = 35
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
        externalNativeBuild {
            cmake {
                arguments += listOf("-DONNXRUNTIME_HEADERS=$onnxruntimeHeaders", "-DCMAKE_BUILD_TYPE=Release")
                targets += listOf("eetoolkit", "eetoolkit_jni")
            }
        }
    }
    externalNativeBuild { cmake { path = file("src/main/cpp/CMakeLists.txt") } }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
}

dependencies {
    implementation("com.microsoft.onnxruntime:onnxruntime-android:1.21.0") // libonnxruntime.so, opened when it runs
    implementation("androidx.activity:activity-ktx:1.9.3")
    implementation("androidx.camera:camera-camera2:1.4.1")
    implementation("androidx.camera:camera-lifecycle:1.4.1")
}
