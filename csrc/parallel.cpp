// Runs chunks on the OpenMP threads of torch if Python passed their entry point, else on a separate pool.
//
// The threads of torch spin for a while after each operation, so other threads would find the cores busy. The pool is
// used without an entry point, and in a forked child, where OpenMP would wait for threads that do not exist there. Its
// threads sleep when idle.

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
    // Returns false if another caller is using the pool.
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
        job_ = nullptr;  // threads that have not started by now need not
        done_.wait(hold, [this] { return active_ == 0; });
        return true;
    }

private:
    bool start() {
        sigset_t every, before;  // the program's own threads handle signals
        sigfillset(&every);
        pthread_sigmask(SIG_BLOCK, &every, &before);
        bool started = true;
        try {
            std::thread([this] { serve(); }).detach();
            ++threads_;
        } catch (const std::exception&) {  // continue with fewer threads
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
Pool* pool = nullptr;  // never deleted: its threads still sleep in it when the process ends

// A forked child has no threads, and locks in an arbitrary state, so it starts with a new pool.
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
