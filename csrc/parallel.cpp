// Threads: those of torch's OpenMP where Python has handed its entry point over, else a pool of our own.
//
// Torch's threads spin for a while after each of its operations, so threads of our own would find the cores taken.
// Where there is no such entry point, or in a forked child, where OpenMP would wait for threads that are not there,
// the pool serves; its threads sleep when idle.

#include "kernels.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace bcvlr {
namespace {

struct Job {
    int64_t chunks;
    void (*body)(void*, int64_t);
    void* context;
    std::atomic<int64_t> next{0};
    std::mutex error_lock;
    std::exception_ptr error;

    void work() {
        for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
            try {
                body(context, chunk);
            } catch (...) {
                std::lock_guard<std::mutex> hold(error_lock);
                if (!error) error = std::current_exception();
                next.store(chunks, std::memory_order_relaxed);
            }
        }
    }
};

class Pool {
public:
    // False when another caller has the pool: its threads are busy anyway.
    bool run(Job& job, int helpers) {
        std::unique_lock<std::mutex> owner(owner_, std::try_to_lock);
        if (!owner) return false;
        {
            std::lock_guard<std::mutex> hold(lock_);
            while (threads_ < helpers && start()) {
            }
            job_ = &job;
            wanted_ = helpers;
        }
        for (int i = 0; i < helpers; ++i) wake_.notify_one();
        job.work();
        std::unique_lock<std::mutex> hold(lock_);
        job_ = nullptr;  // who has not begun by now need not
        done_.wait(hold, [this] { return active_ == 0; });
        return true;
    }

private:
    bool start() {
        sigset_t every, before;  // signals are for the program's own threads
        sigfillset(&every);
        pthread_sigmask(SIG_BLOCK, &every, &before);
        bool started = true;
        try {
            std::thread([this] { serve(); }).detach();
            ++threads_;
        } catch (const std::exception&) {  // fewer threads, then
            started = false;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }

    void serve() {
        std::unique_lock<std::mutex> hold(lock_);
        for (;;) {
            wake_.wait(hold, [this] { return job_ && wanted_ > 0; });
            Job* job = job_;
            --wanted_;
            ++active_;
            hold.unlock();
            job->work();
            hold.lock();
            if (--active_ == 0) done_.notify_one();
        }
    }

    std::mutex owner_, lock_;
    std::condition_variable wake_, done_;
    Job* job_ = nullptr;
    int threads_ = 0, wanted_ = 0, active_ = 0;
};

using OpenMp = void (*)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel: body, its data, threads, flags

std::atomic<OpenMp> openmp{nullptr};
Pool* pool = nullptr;  // never deleted: its threads sleep in it when the process ends

// A forked child has none of its parent's threads, and locks in any state: it begins anew.
void begin() {
    openmp = nullptr;
    pool = new Pool;
}

struct Begun {
    Begun() {
        begin();
        pthread_atfork(nullptr, nullptr, begin);
    }
} begun;

}  // namespace

void use_openmp(void* gomp_parallel) { openmp = reinterpret_cast<OpenMp>(gomp_parallel); }

void parallel(int64_t chunks, int threads, void (*body)(void*, int64_t), void* context) {
    Job job{chunks, body, context, {}, {}, {}};
    const int team = static_cast<int>(chunks < threads ? chunks : threads);
    if (team <= 1)
        job.work();
    else if (const OpenMp run = openmp)
        run([](void* data) { static_cast<Job*>(data)->work(); }, &job, static_cast<unsigned>(threads), 0);
    else if (!pool->run(job, team - 1))
        job.work();
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace bcvlr
